"""What a team's containers run, as processes: PostgreSQL, an S3 store, MLflow with rights, Prefect's server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows.server import free_port, healthy
from flows.team import bucket
from tests.e2e.postgres import cluster
from tests.e2e.wire import Wire, wire

ADMIN_PASSWORD = "of-the-administrator"  # pragma: allowlist secret
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Team:
    """Addresses, and the environment that a client of these servers has."""

    mlflow: str
    objects: str
    databases: Mapping[str, str]
    folder: Path  # logs
    wires: tuple[Wire, ...] = ()  # to the database and to the object store

    def client(self, user: str = "", password: str = "") -> dict[str, str]:
        named = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password} if user else {}
        return {
            **KEYS,
            "AWS_ENDPOINT_URL": self.objects,
            "MLFLOW_TRACKING_URI": self.mlflow,
            "KINTSUGI_DVC_REMOTE": "s3://kintsugi/dvc",
            **named,
        }


@contextmanager
def served(
    name: str, command: list[str], env: Mapping[str, str], folder: Path, well: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; enter the block once it is well."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **env}, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300  # a busy machine takes minutes for a database's first migrations
        while not well():
            assert process.poll() is None and time.monotonic() < deadline, (folder / f"{name}.log").read_text()[-3000:]
            time.sleep(0.1)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def objects(folder: Path, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """An S3 store in memory; its address."""
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-P", "-m", "moto.server", "-H", host, "-p", str(port)]
    with served("objects", command, KEYS, folder, lambda: healthy(f"{address}/moto-api/")):
        yield address


@contextmanager
def mlflow_server(folder: Path, databases: Mapping[str, str], store: str, port: int = 0) -> Iterator[str]:
    """MLflow as compose.yaml starts it; its address."""
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    env = {
        **KEYS,
        "AWS_ENDPOINT_URL": store,
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{databases['mlflow']}",
        "KINTSUGI_AUTH_STORE_URI": f"postgresql+psycopg2://{databases['auth']}",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://kintsugi/mlflow",
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-this-test-alone",  # pragma: allowlist secret
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1,127.0.0.1:{port}",
    }
    command = [sys.executable, "-P", "-m", "flows.team.server", "--port", str(port), "--workers", "1"]
    with served("mlflow", command, env, folder, lambda: healthy(f"{address}/health")):
        yield address


@contextmanager
def team(folder: Path) -> Iterator[Team]:
    """PostgreSQL, the object store with its bucket, and MLflow; skips where PostgreSQL is not installed."""
    with ExitStack() as stack, patched(KEYS):
        found = stack.enter_context(cluster("prefect", "mlflow", "auth"))
        port = int(found["mlflow"].partition(":")[2].partition("/")[0])
        database = stack.enter_context(wire(port))
        databases = {name: address.replace(f":{port}/", f":{database.port}/") for name, address in found.items()}
        real = stack.enter_context(objects(folder))
        bucket_wire = stack.enter_context(wire(int(real.rpartition(":")[2])))
        store = f"http://127.0.0.1:{bucket_wire.port}"
        with patched({"AWS_ENDPOINT_URL": store}):
            assert bucket.ensure("s3://kintsugi")
        address = stack.enter_context(mlflow_server(folder, databases, store))
        yield Team(address, store, databases, folder, (database, bucket_wire))


@contextmanager
def patched(values: Mapping[str, str]) -> Iterator[None]:
    """These variables in the environment while inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
