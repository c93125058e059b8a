"""Imported by every Python process of a run under test: dies by SIGKILL at the moment that KILL_AT names.

KILL_AT is `event|text|count|victim`: the audit event (https://docs.python.org/3/library/audit_events.html), what its
arguments or the command line must hold (several texts with & between), at which such event, and who dies: `run`, the
first process with this variable, with all that it started, `self`, the process in which it happens, or `torn`: the
same, and the file that it was opening is left half written. Several moments stand in lines of their own. KILLED names
the file that says what happened; each happens once, so that the next try lives.
"""

import os
import signal
import sys
import time
from pathlib import Path


def watch(moment: str) -> None:
    """Install the hook of one moment."""
    event, text, count, victim = moment.split("|")
    mark = Path(os.environ["KILLED"])
    first = int(os.environ.setdefault("KILL_PID", str(os.getpid())))
    seen = 0

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if name != event or (name == "open" and not _writes(arguments)):
            return
        told = repr((arguments[:2], sys.argv))  # the environment that a new process gets names all moments
        if not all(part in told for part in text.split("&")):
            return
        seen += 1
        if seen != int(count) or (mark.exists() and moment in mark.read_text()):
            return
        with mark.open("a") as file:
            file.write(f"{moment}\n")
        if victim == "torn":
            opened = Path(str(arguments[0]))
            os.truncate(opened, opened.stat().st_size // 2)
        os.kill(first if victim == "run" else os.getpid(), signal.SIGKILL)
        time.sleep(60)  # until the leash has noticed

    sys.addaudithook(hook)


def _writes(arguments: tuple[object, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(int(str(flags)) & 3)


for line in os.environ.get("KILL_AT", "").splitlines():
    watch(line)
