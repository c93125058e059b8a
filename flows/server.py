"""Where Prefect's API is: a configured one, the one that `kintsugi up` serves, or a temporary one.

The temporary server is Prefect's own, started by us rather than by Prefect's client for three reasons:
it loads while other work goes on, Ctrl-C in the terminal does not reach it before the run has recorded
its end, and it goes when the process that started it dies, even by SIGKILL.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from components.errors import UserError
from flows.adapters import alive
from flows.adapters.leash import leashed

# A stage that waits for a slot asks again after this many seconds; Prefect's own answer grows to thirty.
QUICK_SLOTS = {"PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "1"}
START_TIMEOUT = 120.0  # seconds; a fresh database on a busy machine takes about ten
ALIVE = 5  # times as long for a server of our own that lives: it is only slow, and would say if it were not


@dataclass
class Api:
    """A Prefect API that is up, or coming up; `owned` when this process is the only one that uses it."""

    url: str
    owned: bool = False
    process: subprocess.Popen[bytes] | None = None

    def wait(self) -> str:
        """Return the address once it answers; UserError when it does not come up."""
        deadline = time.monotonic() + START_TIMEOUT * (1 if self.process is None else ALIVE)
        while not healthy(f"{self.url}/health"):
            if self.process is not None and self.process.poll() is not None:
                raise UserError("Prefect's temporary server ended at once; see .kintsugi/prefect/server.log")
            if time.monotonic() > deadline:
                raise UserError(f"no Prefect server answers at {self.url}; start it or unset PREFECT_API_URL")
            time.sleep(0.1)
        return self.url


@contextlib.contextmanager
def prefect_api(root: Path) -> Iterator[Api]:
    """Yield the Prefect API for a run in the workspace `root`, starting a temporary one if there is none.

    Raises UserError when another run with a temporary server is at work in this workspace.
    """
    if url := _configured() or _up(root):
        yield Api(url)
        return
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    with exclusive(home / "run.lock") as taken:
        if taken:
            raise UserError(
                f"another `kintsugi run` (process {taken}) is at work in this workspace; wait for it to end, "
                "or use `kintsugi up`, with which several can run"
            )
        port = free_port()
        with (home / "server.log").open("wb") as log:
            process = subprocess.Popen(
                leashed([sys.executable, "-P", "-m", "flows.server", str(port)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield Api(f"http://127.0.0.1:{port}/api", owned=True, process=process)
        finally:
            stop_group(process)


def _configured() -> str | None:
    if "prefect" in sys.modules:  # settings may be in its context instead of the environment, as in tests
        from prefect.settings import PREFECT_API_URL

        if url := PREFECT_API_URL.value():
            return str(url)
    return os.environ.get("PREFECT_API_URL") or None


def _up(root: Path) -> str | None:
    """Return the address of the server that `kintsugi up` runs for this workspace, if it answers or the process that
    started it lives: on a busy machine an answer may take longer than a look."""
    try:
        record = json.loads((root / ".kintsugi" / "up.json").read_text(encoding="utf-8"))
        url, process = str(record["prefect_api"]), str(record.get("process", ""))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return url if healthy(f"{url}/health") or alive.lives(process) else None


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[str]:
    """Hold a lock file while inside; yield "" when it is ours, else the process id that holds it.

    The operating system frees it when the holder dies, so no stale lock needs clearing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield _holder(file) or "unknown"
            return
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield ""


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def healthy(url: str) -> bool:
    """Whether an HTTP GET of `url` answers with a success within a second."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(200 <= answer.status < 300)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """Return `preferred`, or the next port above it that nobody listens on; any free one for 0."""
    for port in range(preferred, preferred + 100) if preferred else [0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError(f"no free port between {preferred} and {preferred + 99}; stop what listens there")


def stop_group(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End the process group that `process` leads: politely first, for sure after `patience` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def serve(port: int) -> None:
    """Serve Prefect's API, without its pages and schedules, until a signal ends it."""
    os.environ.update(
        PREFECT_UI_ENABLED="0",
        PREFECT__SERVER_EPHEMERAL="1",
        PREFECT__SERVER_FINAL="1",
        PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="WARNING",
        **QUICK_SLOTS,
    )
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(), host="127.0.0.1", port=port, log_level="error", lifespan="on")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
