"""Carries a stage's checkpoint to the store while the stage works; says that the machine is alive."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.stage import checkpoint_path
from flows.fleet.store import Store

EVERY = 5.0  # seconds between two looks


def checkpoint_name(category: str, stage: str) -> str:
    """Where a stage's checkpoint lies in the store."""
    return f"checkpoints/{category}/{stage}.pt"


def alive_name(category: str) -> str:
    """Where the machine that works on a category says that it does."""
    return f"alive/{category}"


@contextmanager
def living(store: Store, root: Path, category: str, every: float = EVERY) -> Iterator[None]:
    """Say again and again, while inside, that this machine works on the category."""
    with _meanwhile(every) as repeat:
        beats = itertools.count(1)
        who = f"{socket.gethostname()} {root} {threading.get_ident()}"
        repeat(lambda: store.put(alive_name(category), f"{who} {next(beats)}".encode()))
        yield


@contextmanager
def carried(store: Store, root: Path, category: str, stage: str, every: float = EVERY) -> Iterator[bool]:
    """Bring the last checkpoint here, keep the store's copy up to date inside, take it away after success.

    Yields whether there was one. It is used only if it was made from the same inputs, which it says itself.
    """
    name, path = checkpoint_name(category, stage), checkpoint_path(root, category, stage)
    found = store.get(name)
    if found is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found)
    seen = [_state(path)]

    def carry() -> None:
        if (now := _state(path)) == seen[0] or now is None:
            return
        with contextlib.suppress(FileNotFoundError):  # the stage has just ended
            store.put(name, path.read_bytes())  # replaced as a whole by whoever writes it, never half
            seen[0] = now

    with _meanwhile(every) as repeat:
        repeat(carry)
        yield found is not None
    store.drop(name)


@contextmanager
def _meanwhile(every: float) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield what repeats a piece of work in a thread until the block ends, however it ends."""
    done, threads = threading.Event(), list[threading.Thread]()

    def repeat(work: Callable[[], None]) -> None:
        def run() -> None:
            work()
            while not done.wait(every):
                work()

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    try:
        yield repeat
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _state(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_ino
