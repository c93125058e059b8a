"""Subprocesses whose output arrives as it is written and which stop as a whole."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flows.adapters.leash import leashed

# A stage gets this long to write a checkpoint after Ctrl-C before it is told more firmly, seconds.
GRACE = 10.0


class StoppedError(Exception):
    """The work was stopped on request; nothing is wrong with it."""


class Cancellation:
    """One switch that stops every process group started under it, now and later."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may run while this thread holds it
        self._groups: set[int] = set()
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether stop() has been called."""
        return self._stopped.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until stop(); return whether it was stopped."""
        return self._stopped.wait(seconds)

    def stop(self) -> None:
        """Interrupt every running group, then terminate, then kill what does not heed it."""
        with self._lock:
            self._stopped.set()
            groups = set(self._groups)
        _signal(groups, signal.SIGINT)
        threading.Thread(target=self._insist, daemon=True).start()

    def _insist(self) -> None:
        for firmer in (signal.SIGTERM, signal.SIGKILL):
            threading.Event().wait(GRACE)
            with self._lock:
                groups = set(self._groups)
            _signal(groups, firmer)

    @contextlib.contextmanager
    def watching(self, group: int) -> Iterator[None]:
        """Have stop() reach the process group `group` while inside."""
        with self._lock:
            self._groups.add(group)
            late = self.stopped
        if late:
            _signal({group}, signal.SIGINT)
        try:
            yield
        finally:
            with self._lock:
                self._groups.discard(group)


def stream(
    command: Sequence[str],
    cwd: Path,
    env: dict[str, str],
    on_line: Callable[[str], None],
    cancellation: Cancellation,
) -> int:
    """Run `command` in a process group of its own, handing on each line as it comes; return its exit code.

    A carriage return ends a line too, so progress bars are seen while they move. Standard output and
    error are one stream. Raises StoppedError if the work was stopped, and leaves no process of the group.
    """
    if cancellation.stopped:
        raise StoppedError
    process = subprocess.Popen(
        leashed(command),
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        with cancellation.watching(process.pid):
            assert process.stdout is not None
            for line in _lines(process.stdout.fileno()):
                on_line(line)
            code = process.wait()
    finally:
        # An exception from on_line, or a grandchild that outlived its parent: neither may stay behind.
        _signal({process.pid}, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if cancellation.stopped:
        raise StoppedError
    return code


def _lines(descriptor: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pending = ""
    while chunk := os.read(descriptor, 65536):
        *complete, pending = re.split(r"[\r\n]+", pending + decoder.decode(chunk))
        yield from (line for line in complete if line.strip())
    if pending.strip():
        yield pending


def _signal(groups: set[int], number: int) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
