"""PostgreSQL and the object store go away in the middle of a run and of a publication, and come back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows.adapters import tracking
from flows.publish import Publication, publish
from flows.server import free_port, healthy
from tests.e2e.team import Team, patched, served
from tests.toy import Toy

# Publishing is another test's; here it waits for nothing.
RUN = """
import sys
from pathlib import Path
from types import SimpleNamespace
import flows.publish
flows.publish.publish = lambda *a, **k: SimpleNamespace(status="promoted", message="", version="1", new=True)
from flows.run import run
for outcome in run(Path.cwd(), ["bolt"]):
    print(*(f"{stage.stage}={stage.state}" for stage in outcome.stages), outcome.error)
"""


def away(team: Team, seconds: float) -> threading.Thread:
    """Cut both wires now and mend them `seconds` later, in a thread that may be waited for."""
    for each in team.wires:
        each.cut()

    def mend() -> None:
        time.sleep(seconds)
        for each in team.wires:
            each.mend()

    thread = threading.Thread(target=mend)
    thread.start()
    return thread


def during_a_publication(
    team: Team, root: Path, seconds: float, at: Callable[[Callable[[], None]], Any]
) -> tuple[Publication, float]:
    """Publish `brick`, with the outage beginning where `at` calls back; what came out, and how long it took."""
    threads: list[threading.Thread] = []

    def cut() -> None:
        if not threads:
            threads.append(away(team, seconds))

    with at(cut):
        started = time.monotonic()
        published = publish(root, "brick")
    assert threads, "the outage never came"
    threads[0].join()
    return published, time.monotonic() - started


@contextmanager
def when_parameters_are_logged(cut: Callable[[], None]) -> Iterator[None]:
    """Call back in the middle of a publication: the run is made, files and model are not."""
    real = tracking._log_params

    def logged(*arguments: Any) -> None:
        real(*arguments)
        cut()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_log_params", logged)
        yield


def during_a_run(team: Team, toy: Toy, seconds: float) -> str:
    """Run the toy stages on a Prefect server of the team, away while one of them works; what the run said."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    server = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    env = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{team.databases['prefect']}",
        "PREFECT_HOME": str(team.folder / "prefect"),
    }
    toy.tell("train_vqvae", "bolt", f"sleep {seconds / 2:g}")
    with (
        served("prefect", server, env, team.folder, lambda: healthy(f"{address}/health")),
        patched({"PREFECT_API_URL": address, "PREFECT_HOME": str(team.folder / "client")}),
    ):
        run = subprocess.Popen(
            [sys.executable, "-P", "-c", RUN], cwd=toy.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not (toy.root / "started").exists():  # the stage is at work
            assert run.poll() is None and time.monotonic() < deadline, run.communicate()
            time.sleep(0.1)
        mending = away(team, seconds)
        out, err = run.communicate(timeout=300 + 4 * seconds)
        mending.join()
        assert run.returncode == 0, err
    return out.strip()
