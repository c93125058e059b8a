"""Load: many clients at a real `kintsugi serve`, then more of them than it accepts.

    PYTHONPATH=. python benchmarks/load.py [CATEGORY] [--clients 32] [--minutes 5] [--overload-seconds 20]

Run it in a workspace whose category has a champion; the server is started and stopped by the script. Clients run on
the same machine and send the category's test images; each asks again as soon as it was answered. Exit code 1 if any
answer was neither 200 nor, while more ask than the queue holds, 503 with Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks._load import press
from benchmarks._trained import choose
from components.settings import find_root

QUEUE = 64
START = 120  # seconds


@contextlib.contextmanager
def serving(root: Path, category: str) -> Iterator[str]:
    """The address of a server of its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from flows.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, "serve", category, "--port", str(port), "--queue", str(QUEUE)]
    process = subprocess.Popen(command, cwd=root)
    address = f"http://127.0.0.1:{port}"
    try:
        ends = time.monotonic() + START
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/ready", timeout=5):
                break
            if process.poll() is not None or time.monotonic() > ends:
                sys.exit("the server did not start")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(60)  # the batch that is in the model is finished
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("category", nargs="?")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--overload-seconds", type=float, default=20)
    options = parser.parse_args()
    root = find_root()
    category = choose(root, options.category)
    images = [path.read_bytes() for path in sorted((root / "data" / category / "test").rglob("*.png"))]
    with serving(root, category) as address:
        load = asyncio.run(press(address, images, options.clients, 60 * options.minutes))
        print(
            f"{category}, {len(images)} images, {options.clients} clients, {options.minutes:g} minutes\n{load.told()}"
        )
        over = asyncio.run(press(address, images, 3 * QUEUE, options.overload_seconds))
        print(f"\n{3 * QUEUE} clients at a queue of {QUEUE}, {options.overload_seconds:g} s\n{over.told()}")
        print(f"refusals without Retry-After  {over.unkind}")
    good = set(load.codes) == {200} and set(over.codes) == {200, 503} and not over.unkind
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
