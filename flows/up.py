"""`kintsugi up`: Prefect's and MLflow's servers and the deployments of one workspace, as one process tree."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from components.errors import UserError
from flows import environment, plant
from flows.adapters import alive
from flows.adapters.leash import leashed
from flows.server import QUICK_SLOTS, START_TIMEOUT, exclusive, free_port, healthy, stop_group

LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Addresses:
    """Where to look, and which process serves it; kept in `.kintsugi/up.json` while it does."""

    pid: int
    prefect: str
    prefect_api: str
    mlflow: str
    process: str = ""  # as flows.adapters.alive tells it; of one that has started Prefect itself

    @property
    def health(self) -> tuple[str, str]:
        """What answers with a success once both servers work."""
        return f"{self.prefect_api}/health", f"{self.mlflow}/health"


@dataclass(frozen=True)
class Server:
    """One server to start: its command, what it needs of the environment, and where its log goes."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    log: Path


def up(
    root: Path,
    host: str = LOCAL,
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> None:
    """Serve until Ctrl-C, SIGTERM or `stop`; say the addresses. A second call says where the first serves.

    A server that the environment names (PREFECT_API_URL, an http MLFLOW_TRACKING_URI) is not started
    again, only named. Raises UserError when a server does not come up or ends by itself.
    """
    environment.prepare(root)
    folder = root / ".kintsugi"
    with exclusive(folder / "up.lock") as taken:
        if taken:
            say(_already(folder, taken))
            return
        addresses, servers = plan(root, host, prefect_port, mlflow_port)
        servers += deployments(root, addresses)
        with _signals(stop or threading.Event()) as stopped, _serving(servers) as processes:
            if not _wait_healthy(addresses, processes, stopped):
                return
            record = folder / "up.json"
            record.write_text(json.dumps(asdict(addresses)), encoding="utf-8")
            try:
                say(f"Prefect  {addresses.prefect}")
                say(f"MLflow   {addresses.mlflow}")
                say("Ctrl-C stops all of it")
                while not stopped.wait(1):
                    _check_alive(processes)
            finally:
                record.unlink(missing_ok=True)
                say("stopping")


def plan(root: Path, host: str, prefect_port: int, mlflow_port: int) -> tuple[Addresses, list[Server]]:
    """Return where the servers will answer and what has to be started for that."""
    folder = root / ".kintsugi"
    servers = []
    shown = LOCAL if host == "0.0.0.0" else host
    prefect_api, process = os.environ.get("PREFECT_API_URL", ""), ""
    if not prefect_api:
        process = alive.this()
        port = free_port(prefect_port, host)
        prefect_api = f"http://{shown}:{port}/api"
        servers.append(Server("Prefect", _prefect(host, port), _prefect_env(), folder / "prefect.log"))
    mlflow = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not mlflow.startswith(("http://", "https://")):
        port = free_port(mlflow_port, host)
        servers.append(Server("MLflow", _mlflow(root, mlflow, host, port), _mlflow_env(), folder / "mlflow.log"))
        mlflow = f"http://{shown}:{port}"
    return Addresses(os.getpid(), prefect_api.removesuffix("/api"), prefect_api, mlflow, process), servers


def deployments(root: Path, addresses: Addresses) -> list[Server]:
    """Return what serves watch, ingest-and-retrain, promote and drift; nothing in a workspace with no plant."""
    if not (root / plant.FILE).is_file():
        return []
    command = (sys.executable, "-P", "-m", "flows.deployments", str(root))
    # PYTHONSAFEPATH is for the runs that it starts: the workspace's folder named mlflow is not the package.
    env = {"PREFECT_API_URL": addresses.prefect_api, "MLFLOW_TRACKING_URI": addresses.mlflow, "PYTHONSAFEPATH": "1"}
    return [Server("Deployments", command, env, root / ".kintsugi" / "deployments.log")]


def _prefect(host: str, port: int) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "prefect", "server", "start", "--host", host, "--port", str(port))


def _prefect_env() -> dict[str, str]:
    return {
        "PREFECT_UI_API_URL": "/api",  # where the page came from: another machine's 127.0.0.1 is itself
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        # Slots of a run that died are freed by their leases; kept in memory, a restart would lose them
        # and the slots with them.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        **QUICK_SLOTS,
    }


def _mlflow(root: Path, store: str, host: str, port: int) -> tuple[str, ...]:
    names = dict.fromkeys(["localhost", LOCAL, host])  # MLflow compares the Host header literally
    allowed = [each for name in names for each in (name, f"{name}:{port}")]
    return (
        sys.executable, "-P", "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1",
        "--backend-store-uri", store, "--artifacts-destination", str(root / "mlartifacts"),
        "--allowed-hosts", ",".join(allowed) if host != "0.0.0.0" else "*",
    )  # fmt: skip


def _mlflow_env() -> dict[str, str]:
    # Job execution is for MLflow's language-model features and takes half a gigabyte.
    return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _already(folder: Path, pid: str) -> str:
    try:
        addresses = Addresses(**json.loads((folder / "up.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return f"already starting (process {pid})"
    well = all(healthy(url) for url in addresses.health)
    state = "already running" if well else "already running, but not answering"
    return f"{state} (process {pid})\nPrefect  {addresses.prefect}\nMLflow   {addresses.mlflow}"


@contextlib.contextmanager
def _serving(servers: list[Server]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for server in servers:
            server.log.parent.mkdir(parents=True, exist_ok=True)
            with server.log.open("wb") as log:
                processes[server.name] = subprocess.Popen(
                    leashed(server.command),
                    env={**os.environ, **server.env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        yield processes
    finally:
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # all at once, then wait for each
        for process in processes.values():
            stop_group(process)


def _wait_healthy(
    addresses: Addresses, processes: dict[str, subprocess.Popen[bytes]], stopped: threading.Event
) -> bool:
    """Wait until all answer; False when it was stopped before."""
    deadline = time.monotonic() + START_TIMEOUT
    while not all(healthy(url) for url in addresses.health):
        if stopped.wait(0.3):
            return False
        _check_alive(processes)
        if time.monotonic() > deadline:
            raise UserError("the servers do not answer; see .kintsugi/prefect.log and .kintsugi/mlflow.log")
    return True


def _check_alive(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise UserError(f"{name}'s server ended by itself; see .kintsugi/{name.lower()}.log")


@contextlib.contextmanager
def _signals(stopped: threading.Event) -> Iterator[threading.Event]:
    """Set `stopped` on Ctrl-C and SIGTERM while inside."""
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: stopped.set()) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
