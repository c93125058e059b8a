"""Reproduction: a version's snapshot checked out elsewhere, run again, and compared with what was recorded."""

from __future__ import annotations

import configparser
import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import UserError
from flows import fixity, judge, lineage
from flows.adapters import git, registry, tracking
from flows.environment import stage_environment
from flows.holdings import some

# Parallel sums on other machines or thread counts differ in their last bits, and training amplifies them.
CLOSE = 0.02
IGNORED = ("images_per_second",)  # of the machine's mood, not of the model


@dataclass(frozen=True)
class Line:
    """One thing compared: a metric or a stage's output. status: same | close | differs | missing."""

    kind: str  # metric | stage
    name: str
    recorded: str
    reproduced: str
    status: str
    detail: str = ""  # of a stage that differs: which files do


@dataclass(frozen=True)
class Reproduction:
    """What came out of running a version's snapshot again."""

    category: str
    version: str  # as asked for: name and number
    snapshot: str
    lines: tuple[Line, ...]

    @property
    def identical(self) -> bool:
        """Whether the package came out the same, byte for byte (other outputs hold measured times too)."""
        return any((x.kind, x.name, x.status) == ("stage", "package", "same") for x in self.lines)

    @property
    def reproduced(self) -> bool:
        """Whether every metric is within 0.02 of the recorded one."""
        return all(x.status in ("same", "close") for x in self.lines if x.kind == "metric")


def reproduce(root: Path, category: str, version: str | None = None) -> Reproduction:
    """Run a production version (default: the champion; `staging/N`: one in staging) again from its snapshot.

    Takes as long as training did. Works in a folder of its own: the workspace, its artifacts and its cache
    stay as they are. Raises UserError when the version, its snapshot or its data are not there.
    """
    client = tracking.connect(root)
    found = registry.resolve(client, category, version)
    sha = found.tags["snapshot.sha"]
    lock = lineage.committed(root, sha, "dvc.lock")
    if lock is None:
        raise UserError(f"snapshot {sha[:12]} is not in this repository; fetch refs/exps from where it was made")
    recorded = lineage.parse_lock(lock, category)
    with worktree(root, sha) as elsewhere:
        _fetch(elsewhere, f"data/{category}")
        targets = [f"{stage}@{category}" for stage in recorded.lock]
        _dvc(elsewhere, "repro", "--force", "--no-run-cache", "--no-commit", *targets)
        artifacts = elsewhere / "artifacts" / category
        objects = fixity.Objects.of(root)
        lines = [_stage_line(s, md5, artifacts / s, objects) for s, md5 in recorded.outs.items()]
        text = (artifacts / "evaluate" / "metrics.json").read_text(encoding="utf-8")
    lines += _metric_lines(judge.recorded_metrics(found), json.loads(text))
    return Reproduction(category, f"{found.name} {found.version}", sha, tuple(lines))


@contextlib.contextmanager
def worktree(root: Path, sha: str) -> Iterator[Path]:
    """A checkout of a snapshot in a temporary folder that shares the workspace's cache; gone afterwards."""
    top = Path(git.git(root, "rev-parse", "--show-toplevel"))
    scratch = Path(tempfile.mkdtemp(prefix="kintsugi-reproduce-"))
    checkout = scratch / "tree"
    try:
        git.git(root, "worktree", "add", "--detach", str(checkout), sha)
        elsewhere = checkout / root.resolve().relative_to(top.resolve())
        _share_cache(root, elsewhere)
        yield elsewhere
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        git.git(root, "worktree", "prune")


def _share_cache(root: Path, elsewhere: Path) -> None:
    """Point the checkout at the workspace's cache and remote, which relative paths would miss from there."""
    objects = fixity.Objects.of(root)
    places = dict(objects.folders)
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / ".dvc" / "config.local")  # credentials of the remote, which git does not hold
    sections = {"cache": {"dir": str(places["cache"])}}
    if "remote" in places:
        sections[f"'remote \"{objects.remote}\"'"] = {"url": str(places["remote"])}
    for name, values in sections.items():
        config[name] = {**(config[name] if config.has_section(name) else {}), **values}
    (elsewhere / ".dvc").mkdir(exist_ok=True)
    with (elsewhere / ".dvc" / "config.local").open("w", encoding="utf-8") as stream:
        config.write(stream)


def _fetch(elsewhere: Path, path: str) -> None:
    try:
        _dvc(elsewhere, "checkout", path)
    except UserError:
        _dvc(elsewhere, "pull", path)  # not in the cache (any more): the remote has it


def _dvc(folder: Path, *arguments: str) -> None:
    """Run DVC in the checkout, whose own code must be what its stages import."""
    environment = {k: v for k, v in stage_environment().items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "dvc", *arguments],
        cwd=folder,
        env=git.environment(folder, environment) | {"DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
        raise UserError(f"dvc {arguments[0]} of the snapshot failed: {(errors or said or ['no message'])[-1]}")


def _stage_line(stage: str, recorded: str, folder: Path, objects: fixity.Objects) -> Line:
    files = fixity.listing(folder)
    if not files:
        return Line("stage", stage, recorded, "", "missing")
    reproduced = fixity.listing_md5(files)
    if reproduced == recorded:
        return Line("stage", stage, recorded, reproduced, "same")
    before = objects.listing(recorded)
    detail = some(fixity.differences(before, files)) if before else ""
    return Line("stage", stage, recorded, reproduced, "differs", detail)


def _metric_lines(recorded: dict[str, Any], reproduced: dict[str, Any]) -> list[Line]:
    lines = []
    for name, before in sorted(recorded.items()):
        if name in IGNORED or isinstance(before, bool) or not isinstance(before, int | float):
            continue
        after = reproduced.get(name)
        if not isinstance(after, int | float):
            status = "missing"
        elif after == before or (math.isnan(after) and math.isnan(before)):
            status = "same"
        else:
            scale = max(1.0, abs(before))  # thresholds are on the scale of the score, metrics on [0, 1]
            status = "close" if abs(after - before) <= CLOSE * scale else "differs"
        lines.append(Line("metric", name, str(before), str(after), status))
    return lines
