"""Silence for what one thread's libraries print, while other threads go on talking.

Each of sys.stdout and sys.stderr is one for the whole process. `contextlib.redirect_stderr` in two threads that
overlap puts back what the other had put there, and both lose what third threads say meanwhile.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

_LOCK = threading.Lock()
_IN_PLACE: dict[str, _Deaf] = {}


class _Deaf:
    """A stream, deaf to the threads (by identity, with how often each asked for it) in `to`."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.to = stream, Counter[int]()

    def write(self, text: str) -> int:
        return len(text) if self.to[threading.get_ident()] else int(self.stream.write(text) or 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def hushed(name: Literal["stdout", "stderr"]) -> Iterator[None]:
    """Drop what this thread writes to sys.stdout or sys.stderr while inside."""
    me = threading.get_ident()
    with _LOCK:
        deaf = _IN_PLACE.get(name)
        if deaf is None:
            deaf = _IN_PLACE[name] = _Deaf(getattr(sys, name))
            setattr(sys, name, deaf)
        deaf.to[me] += 1
    try:
        yield
    finally:
        with _LOCK:
            deaf.to[me] -= 1
            if not +deaf.to:  # the last one out puts the stream back
                del _IN_PLACE[name]
                setattr(sys, name, deaf.stream)
