"""Carries a stage's checkpoint to the store while the stage works, and a sign of life with it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
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
def carried(store: Store, root: Path, category: str, stage: str, every: float = EVERY) -> Iterator[bool]:
    """Bring the last checkpoint here, keep the store's copy up to date inside, take it away after success.

    Yields whether there was one. It is used only if it was made from the same inputs, which it says itself.
    """
    name, path = checkpoint_name(category, stage), checkpoint_path(root, category, stage)
    found = store.get(name)
    if found is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found)
    done = threading.Event()
    thread = threading.Thread(
        target=_keep, args=(store, path, name, alive_name(category), root, done, every), daemon=True
    )
    thread.start()
    try:
        yield found is not None
    finally:
        done.set()
        thread.join()
    store.drop(name)


def _keep(store: Store, path: Path, name: str, alive: str, root: Path, done: threading.Event, every: float) -> None:
    seen, beats = _state(path), 0
    while True:
        beats += 1
        store.put(alive, f"{socket.gethostname()} {root} {threading.get_ident()} {beats}".encode())
        if (now := _state(path)) != seen and now is not None:
            try:
                store.put(name, path.read_bytes())  # replaced as a whole by whoever writes it, never half
                seen = now
            except FileNotFoundError:  # the stage has just ended
                pass
        if done.wait(every):
            return


def _state(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_ino
