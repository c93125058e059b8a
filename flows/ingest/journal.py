"""The journal of an ingest: every file's fate, written down as a whole before the first file moves.

`.kintsugi/ingest/<category>.json` is there while a batch is under way; closed ones are kept in
`.kintsugi/ingest/<category>/done/`. Whoever finds an open one finishes it, so that a crash anywhere loses
nothing and does nothing twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from flows.ingest import files
from flows.server import exclusive

Decision = Literal["accepted", "held", "quarantined", "duplicate"]


@dataclass(frozen=True)
class Fate:
    """What happens to one file, and why."""

    name: str  # relative to the landing place, posix
    source: str  # absolute path of the file on this machine
    sha256: str
    decision: Decision
    target: str  # relative to the workspace, posix
    reasons: tuple[str, ...] = ()
    score: float | None = None  # the champion's; None when it did not look
    threshold: float | None = None
    model: str = ""  # production.<category>/<version> that scored it
    remote: str = ""  # identity of the object in the bucket that it was fetched from
    by: str = ""  # who released it, and why
    why: str = ""


@dataclass(frozen=True)
class Batch:
    """The fates of the files of one ingest."""

    category: str
    landing: str
    branch: str
    started: str  # ISO 8601, UTC
    fates: tuple[Fate, ...]
    docs: str = ""  # Data Docs of the validation, relative to the workspace

    def of(self, decision: Decision) -> tuple[Fate, ...]:
        """The files with this fate."""
        return tuple(fate for fate in self.fates if fate.decision == decision)


def home(root: Path, category: str) -> Path:
    """The folder for what ingest keeps of a category besides the open journal."""
    return root / ".kintsugi" / "ingest" / category


def path(root: Path, category: str) -> Path:
    """The open journal's file."""
    return home(root, category).with_name(f"{category}.json")


def read(root: Path, category: str) -> Batch | None:
    """The batch that is under way, if any."""
    try:
        content = json.loads(path(root, category).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    fates = tuple(Fate(**{**fate, "reasons": tuple(fate["reasons"])}) for fate in content.pop("fates"))
    return Batch(**content, fates=fates)


def write(root: Path, batch: Batch) -> None:
    """Write the batch down; from here on it will be carried out, by this process or a later one."""
    files.write_json(path(root, batch.category), asdict(batch))


def close(root: Path, batch: Batch) -> None:
    """Move the finished journal to its archive, in one step."""
    done = home(root, batch.category) / "done"
    done.mkdir(parents=True, exist_ok=True)
    os.replace(path(root, batch.category), done / f"{batch.started.replace(':', '')}.json")


@contextmanager
def alone(root: Path, category: str) -> Iterator[None]:
    """Hold the category's ingest lock; UserError names the process that holds it."""
    with exclusive(home(root, category).with_name(f"{category}.lock")) as taken:
        if taken:
            raise files.PassingError(f"'{category}' is being ingested by process {taken}; wait for it to end")
        yield


@contextmanager
def standing_still(root: Path, category: str, then: str) -> Iterator[None]:
    """Keep trainings of the category out while its images change, or DVC would record the wrong ones.

    While one is under way, UserError names its process and says what to do `then`.
    """
    with exclusive(root / ".kintsugi" / "locks" / f"{category}.lock") as taken:
        if taken:
            raise files.PassingError(f"'{category}' is being retrained by process {taken}; {then}")
        yield


def carry_out(root: Path, batch: Batch, reached: Callable[[str], None]) -> list[Fate]:
    """Move every file to its place, its reasons first; returns the files that someone took in between."""
    left = []
    scratch = home(root, batch.category) / "scratch"
    for number, fate in enumerate(batch.fates, 1):
        source, target = Path(fate.source), root / fate.target
        beside = target.with_name(f"{target.name}.json")
        if fate.decision != "accepted":
            files.write_json(beside, {**asdict(fate), "category": batch.category, "when": batch.started})
        if not files.move(source, target, fate.sha256, scratch):
            left.append(fate)
            if fate.decision != "accepted":
                beside.unlink()
        elif fate.by:  # released: the journal has taken over what its note said
            source.with_name(f"{source.name}.json").unlink(missing_ok=True)
        reached(f"moved {number}")
    return left
