"""Hostile images, archives, settings files and manifests: nothing but a UserError, no hang, nothing outside.

    PYTHONPATH=. python benchmarks/fuzz.py [CASES] [SEED]        default 100000, 0

Four kinds in turn. Each case starts from something valid and is bent: bytes flipped, cut, repeated and spliced,
lengths and sizes overwritten with extreme numbers, names that climb, links, bombs, YAML that nests, repeats and lies
about its types. A case fails if anything but UserError comes out, if it takes longer than LIMIT seconds, or if a file
appears outside of its folder. A failing case is written to fuzz-failures/ with the seed that makes it again.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from components.errors import UserError
from tests.fuzz import archives, images, manifests, settings

KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "image": images.case,
    "archive": archives.case,
    "settings": settings.case,
    "manifest": manifests.case,
}
LIMIT = 10  # seconds of processor time, whole; twelve times that by the clock, for what waits


class HangError(Exception):
    """The case took longer than LIMIT."""


@dataclass(frozen=True)
class Failure:
    """What came out of a case that should not have."""

    kind: str
    seed: int
    told: str


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise HangError in the block after that time; C code is interrupted when it returns."""

    def late(number: int, frame: FrameType | None) -> None:
        raise HangError(f"longer than {seconds} s")

    before = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(12 * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def outside(home: Path) -> dict[str, bytes]:
    """What lies beside the folder that a case may write to."""
    return {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}


def one(kind: str, seed: int, home: Path) -> Failure | str:
    """Run one case in `home`/inside; "accepted" or "refused", or the failure."""
    inside = home / "inside"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    (home / manifests.DECOY).write_bytes(b"untouched")
    before = outside(home)
    try:
        with limited(LIMIT):
            KINDS[kind](random.Random(f"{kind} {seed}"), inside)
        verdict = "accepted"
    except UserError as error:
        if not str(error).strip():
            return Failure(kind, seed, "the message is empty")
        verdict = "refused"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Failure(kind, seed, "".join(traceback.format_exception(error))[-4000:])
    if outside(home) != before:
        return Failure(kind, seed, f"written outside: {outside(home)}")
    return verdict


def run(cases: int, seed: int = 0, say: Callable[[str], Any] = lambda line: None) -> tuple[Counter[str], list[Failure]]:
    """That many cases, the kinds in turn; how each kind ended, and the failures."""
    ends: Counter[str] = Counter()
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="kintsugi-fuzz-") as scratch:
        for number in range(cases):
            kind = list(KINDS)[number % len(KINDS)]
            end = one(kind, seed + number, Path(scratch))
            if isinstance(end, Failure):
                failures.append(end)
                say(f"{end.kind} {end.seed}: {end.told}")
            ends[f"{kind} {end if isinstance(end, str) else 'failed'}"] += 1
            if number % 5000 == 4999:
                say(f"{number + 1} cases, {len(failures)} failures")
    return ends, failures


def main(cases: int, seed: int) -> int:
    """Print counts, time and failures; 1 when there is a failure."""
    started = time.monotonic()
    ends, failures = run(cases, seed, lambda line: print(line, flush=True))
    print(f"\n{cases} cases in {time.monotonic() - started:.0f} s, {len(failures)} failures\n")
    print("| kind | accepted | refused in one line | failed |\n|---|---:|---:|---:|")
    for kind in KINDS:
        print(f"| {kind} | {ends[f'{kind} accepted']} | {ends[f'{kind} refused']} | {ends[f'{kind} failed']} |")
    for each in failures:
        path = Path("fuzz-failures") / f"{each.kind}-{each.seed}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(each.told)
    return 1 if failures else 0


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [100_000, 0][len(numbers) :])))
