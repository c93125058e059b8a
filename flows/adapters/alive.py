"""Which process it is, and whether it is gone: told apart from a later one that was given the same number."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def this() -> str:
    """This process as `namespace/number/start`, for another one of this machine to ask about."""
    return f"{_namespace()}/{os.getpid()}/{_start(os.getpid())}"


def gone(process: str) -> bool:
    """Whether a process of this machine, as `this` told it, has certainly ended; False where nobody can know."""
    known = _of_this_namespace(process)
    if known is None:
        return False
    number, start = known
    try:
        os.kill(number, 0)
        ours = True
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives as another user's, whose times may be hidden from this one
        ours = False
    now = _start(number)
    return now != start and (ours or bool(now))


def lives(process: str) -> bool:
    """Whether a process of this machine, as `this` told it, is certainly there; False where nobody can know."""
    known = _of_this_namespace(process)
    if known is None:
        return False
    number, start = known
    return bool(start) and _start(number) == start


def _of_this_namespace(process: str) -> tuple[int, str] | None:
    """Number and start of a process as `this` told it; None elsewhere: a container's neighbours have numbers of their
    own."""
    namespace, _, rest = process.partition("/")
    number, _, start = rest.partition("/")
    return (int(number), start) if number.isdecimal() and namespace == _namespace() else None


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""  # a system without namespaces


def _start(number: int) -> str:
    """When a process began, in the system's own words; empty when it has ended, a zombie included."""
    stat = Path(f"/proc/{number}/stat")
    try:
        state, *rest = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]  # the 22nd field: ticks since the machine came up
    except OSError:
        if stat.parents[1].joinpath("self").exists():
            return ""
    asked = ["ps", "-o", "stat=,lstart=", "-p", str(number)]
    told = subprocess.run(asked, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout.split()
    return "" if not told or told[0].startswith("Z") else " ".join(told[1:])
