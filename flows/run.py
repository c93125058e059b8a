"""`kintsugi run`: the retraining flow with a server to run on, a way to show it and a way to stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from components.errors import UserError
from components.settings import read_params
from flows import environment
from flows.adapters.process import Cancellation, StoppedError
from flows.outcome import CategoryOutcome, nearest
from flows.plan import read_nodes
from flows.progress import Reporter
from flows.server import prefect_api

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def run(
    root: Path,
    categories: Sequence[str] = (),
    reporter: Reporter | None = None,
    cancellation: Cancellation | None = None,
) -> list[CategoryOutcome]:
    """Bring `categories` (default: all of params.yaml) up to date and publish them; one outcome for each.

    Raises UserError for what stops the run as a whole, StoppedError after Ctrl-C.
    """
    environment.prepare(root)
    chosen = choose(root, categories)
    reporter = reporter or Reporter()
    cancellation = cancellation or Cancellation()
    with interruptible(cancellation), prefect_api(root) as api:
        from flows import retrain  # Prefect loads while its server does

        session = retrain.Session(root, reporter, cancellation, owned_server=_ours(api.owned))
        read_nodes(root, chosen)  # for its errors, while the server loads; the flow plans once nothing moves
        url = api.wait()
        from prefect.exceptions import FailedRun
        from prefect.settings import PREFECT_API_URL, temporary_settings

        token = retrain.SESSION.set(session)
        try:
            with temporary_settings({PREFECT_API_URL: url}), reporter:
                state = cast("State[Any]", retrain.retrain(chosen, return_state=True))
        finally:
            retrain.SESSION.reset(token)
            _flush()
        if cancellation.stopped:
            raise StoppedError
        if not session.outcomes:  # the flow itself failed before any stage
            with contextlib.suppress(FailedRun):  # or Prefect started none: the results say so
                state.result(raise_on_failure=True)
        return session.results(chosen)


def choose(root: Path, categories: Sequence[str]) -> list[str]:
    """Return `categories` without repeats, or all known ones; UserError offers the nearest name."""
    known = [str(name) for name in read_params(root)["categories"] or []]
    if not known:
        raise UserError("there is no category yet; `kintsugi sample` makes one, `kintsugi import` brings one in")
    for name in categories:
        if name not in known:
            raise UserError(f"unknown category '{name}'{nearest(name, known)}")
    return list(dict.fromkeys(categories or known))


def _flush() -> None:
    """Send the log lines and task states that are still queued, before a temporary server goes."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=10)


def _ours(owned: bool) -> bool:
    # A database named by the environment may serve other machines' temporary servers too.
    return owned and "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in os.environ


@contextlib.contextmanager
def interruptible(cancellation: Cancellation) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and a terminal's end into an orderly stop while inside; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if cancellation.stopped:
            raise KeyboardInterrupt
        cancellation.stop()

    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
