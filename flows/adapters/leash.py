"""`python -m flows.adapters.leash PARENT COMMAND...`: run a command that ends when process PARENT does.

A process that is killed outright cannot stop its children. This small one stands between: it notices
that its parent is gone and ends its process group, so that no training or server stays behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

GRACE = 10.0  # seconds to end by itself after SIGTERM


def leashed(command: Sequence[str]) -> list[str]:
    """Return `command` on a leash held by this process; start it in a session of its own."""
    return [sys.executable, "-P", "-m", "flows.adapters.leash", str(os.getpid()), *command]


def main(parent: int, command: Sequence[str]) -> int:
    """Run `command` until it or `parent` ends; return its exit code, 128 + n when signal n ended it."""
    # Signals to the group reach the command itself; the leash only waits for what it makes of them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    child = subprocess.Popen(command)
    while True:
        try:
            code = child.wait(1)
        except subprocess.TimeoutExpired:
            if os.getppid() == parent:
                continue
            os.killpg(0, signal.SIGTERM)
            try:
                child.wait(GRACE)
            finally:
                os.killpg(0, signal.SIGKILL)
        return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
