"""DVC (and git) behind their command lines: data versions, the stage graph, staleness, one stage's run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.errors import UserError
from components.settings import read_params, read_yaml
from flows import fixity
from flows.adapters import git, lockfile
from flows.adapters.git import GitState, check_branch, snapshot
from flows.adapters.process import Cancellation, stream
from flows.environment import stage_environment

__all__ = [
    "GitState", "LockBusyError", "Repro", "StageError", "add_data", "check", "check_branch", "check_complete",
    "commit_data", "data_md5", "git_state", "pull", "push", "repro_stage", "snapshot", "stage_graph", "stage_outs",
    "stale_stages",
]  # fmt: skip

BUSY = ("is busy, it is being blocked by", "Unable to acquire lock", "unable to acquire lock")
SKIPPED = re.compile(r"^Stage '[^']+' (didn't change, skipping|is cached - skipping run)")
DVC_ERROR = 255  # DVC's exit code for whatever it refuses itself
EXITED = re.compile(r"exited with (-?\d+)")


class LockBusyError(Exception):
    """Another DVC process holds what this one needs; it passes."""


class StageError(Exception):
    """A stage's command ended with `code`; the message is the last thing it said."""

    def __init__(self, stage: str, code: int, message: str) -> None:
        super().__init__(message)
        self.stage, self.code, self.message = stage, code, message


@dataclass(frozen=True)
class Repro:
    """How one stage's reproduction went."""

    # ran: its command; restored: outputs came from the cache; unchanged: there was nothing to do
    state: Literal["ran", "restored", "unchanged"]


def check(root: Path) -> None:
    """Raise UserError unless `root` is a git repository with DVC initialised."""
    git.check(root)
    home = next((folder / ".dvc" for folder in (root, *root.parents) if (folder / ".dvc").is_dir()), None)
    if home is None:
        raise UserError(f"DVC is not initialised in {root}; run `dvc init` there")
    _name_remote(root, home)


def _name_remote(root: Path, home: Path) -> None:
    """Make KINTSUGI_DVC_REMOTE the default remote of this checkout alone; DVC has no variable for that.

    The store's address and keys are what every S3 client reads: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on.
    """
    address = os.environ.get("KINTSUGI_DVC_REMOTE", "")
    local = home / "config.local"
    if address and not (local.is_file() and f"url = {address}\n" in local.read_text(encoding="utf-8")):
        _dvc(root, "remote", "add", "--local", "--force", "--default", "team", address)


def add_data(root: Path) -> str:
    """Version everything under `data/` as it is now (`dvc add data`); return the md5 of the folder.

    Raises UserError where a category is absent, as `check_complete` does.
    """
    check(root)
    if not (root / "data").is_dir():
        raise UserError(f"{root / 'data'} does not exist; import images first")
    check_complete(root)
    _dvc(root, "add", "data")
    return data_md5(root)


def check_complete(root: Path, coming: str = "") -> None:
    """Raise UserError when data/ lacks a whole category, other than the one that is `coming`, which data.dvc records
    and params.yaml still names.

    A machine that has pulled only some categories would otherwise record the others as deleted. Where there is no
    record, or its listing is in neither the cache nor a remote that is a folder, nothing can be said.
    """
    if not (root / "data.dvc").is_file():
        return
    try:
        recorded = fixity.Objects.of(root).listing(data_md5(root)) or {}
    except ValueError:  # torn by a power cut; DVC writes it anew
        return
    named = {str(name) for name in read_params(root)["categories"] or []}
    expected = sorted((named - {coming}) & {path.partition("/")[0] for path in recorded})
    absent = [f"data/{name}" for name in expected if not any((root / "data" / name).glob("*"))]
    if absent:
        raise UserError(
            f"{', '.join(absent)} would be recorded as deleted, being in data.dvc and not here; bring it back with "
            f"`dvc pull {' '.join(absent)}`, or take it out of params.yaml"
        )


def data_md5(root: Path) -> str:
    """Return the md5 that data.dvc holds for `data/`, 32 hex digits and ".dir"; UserError without one."""
    if not (root / "data.dvc").is_file():
        raise UserError("data/ is not versioned yet (no data.dvc); import images first")
    try:
        return str(read_yaml(root / "data.dvc")["outs"][0]["md5"])
    except (KeyError, IndexError, TypeError):
        raise UserError("data.dvc holds no md5; restore it from git or run `dvc add data`") from None


def stage_graph(root: Path) -> dict[str, tuple[str, ...]]:
    """Return stage -> the stages it depends on, as DVC resolves dvc.yaml; `data.dvc` is a stage too."""
    check(root)
    nodes: dict[str, list[str]] = {}
    for line in _dvc(root, "dag", "--dot").splitlines():
        names = re.findall(r'"([^"]+)"', line)
        if len(names) == 1:
            nodes.setdefault(names[0], [])
        elif len(names) == 2:
            nodes.setdefault(names[1], []).append(names[0])
    return {name: tuple(upstream) for name, upstream in nodes.items()}


def stale_stages(root: Path, targets: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the stages of `targets` (default: all) whose own inputs or outputs changed, with the reasons.

    A stage downstream of a stale one may go stale later and is not listed for that.
    """
    check(root)
    lockfile.mend(root)
    output = _dvc(root, "status", "--json", *targets)
    recorded = _locked(root)
    changes: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return {
        stage: _reasons(entries) if stage in recorded or stage.endswith(".dvc") else ["it has never run"]
        for stage, entries in changes.items()
    }


def _reasons(entries: list[Any]) -> list[str]:
    """Turn the entries of `dvc status --json` into what a person would say."""
    reasons: list[str] = []
    for entry in entries:
        if not isinstance(entry, dict):
            reasons.append({"changed command": "its command changed"}.get(entry, str(entry)))
            continue
        for kind, items in entry.items():
            for path, change in items.items() if isinstance(items, dict) else ():
                if isinstance(change, dict):  # parameters: one entry for each key of the file
                    reasons += [f"setting {key} of {path} {_verb(how)}" for key, how in change.items()]
                elif kind == "changed outs":
                    reasons.append(f"output {path} {_verb(change)}")
                else:
                    reasons.append(f"{path} {_verb(change)}")
    return reasons or ["it is always run"]


def _verb(change: str) -> str:
    known = {
        "modified": "changed",
        "new": "is new",
        "deleted": "is missing",
        "not in cache": "is not in the cache",
    }
    return known.get(change, change)


def repro_stage(
    root: Path,
    stage: str,
    on_line: Callable[[str], None] = lambda line: None,
    cancellation: Cancellation | None = None,
    pull: bool = False,
) -> Repro:
    """Reproduce one stage, and only it; every line that it prints goes to `on_line` as it comes.

    With `pull`, what its inputs or an equal, earlier run lack here is fetched from the remote.

    Raises LockBusyError, StageError (with the exit code of the stage's command), StoppedError, or UserError
    when DVC cannot start the command; after each of them no process of the stage is left.
    """
    check(root)
    before = lockfile.text(root)
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        del said[:-200]
        on_line(line)

    code = stream(
        [*_program(), "--wait-for-lock", "repro", "--single-item", *(["--pull"] if pull else []), stage],
        cwd=root,
        env=_environment(root),
        on_line=hear,
        cancellation=cancellation or Cancellation(),
    )
    if code == 0:
        if any("skipping run" in line for line in said):
            return Repro("restored")
        return Repro("unchanged" if any(SKIPPED.match(line) for line in said) else "ran")
    if lockfile.mend(root, before) and code == DVC_ERROR:
        return repro_stage(root, stage, on_line, cancellation)
    if any(sign in line for line in said for sign in BUSY):
        raise LockBusyError(f"{stage}: {_last_words(said)}")
    exits = [match for line in said if (match := EXITED.search(line))]
    message = _last_words(said).removeprefix(f"{stage}: ").removeprefix(f"failed to reproduce '{stage}': ")
    if not exits and code == DVC_ERROR:  # the command never ran: an input is missing, dvc.yaml is wrong
        raise UserError(message)
    raise StageError(stage, int(exits[-1].group(1)) if exits else code, message)


def _last_words(said: list[str]) -> str:
    """Return the last line that the stage itself printed, else DVC's error."""
    noise = ("ERROR: failed to reproduce", "> ", "Running stage")
    own = [line.strip() for line in said if not line.startswith(noise)]
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    own = [line for line in own if not line.startswith("ERROR: ")]
    return (own or errors or ["it said nothing"])[-1].removeprefix("kintsugi: ")


def stage_outs(root: Path, category: str) -> dict[str, str]:
    """Return stage -> md5 of its output as dvc.lock records it, for one category's stages that have run."""
    locked = _locked(root)
    return {
        name.removesuffix(f"@{category}"): str(entry["outs"][0]["md5"])
        for name, entry in locked.items()
        if name.endswith(f"@{category}") and entry.get("outs")
    }


def git_state(root: Path) -> GitState:
    """Return commit, branch and dirtiness of the repository that holds `root`."""
    return git.state(root)


def commit_data(root: Path, branch: str, message: str) -> str:
    """Commit data.dvc, and nothing else, on `branch`; return the branch's sha."""
    return git.commit_files(root, branch, ["data.dvc"], message)


def push(root: Path, targets: Sequence[str] = (), run_cache: bool = False) -> None:
    """Copy data and stage outputs (default: all) to the default DVC remote; UserError when it cannot be reached."""
    check(root)
    _dvc(root, "push", *(["--run-cache"] if run_cache else []), *targets)


def pull(root: Path, targets: Sequence[str] = ()) -> None:
    """Bring back from the default DVC remote what is missing here; UserError when it cannot be reached."""
    check(root)
    _dvc(root, "pull", *targets)


def _locked(root: Path) -> dict[str, Any]:
    path = root / "dvc.lock"
    return dict(read_yaml(path).get("stages") or {}) if path.is_file() else {}


def _program() -> list[str]:
    # -P: the workspace's folder must not come first on the import path, it has a folder named mlflow
    return [sys.executable, "-P", "-m", "dvc"]


def _environment(root: Path) -> dict[str, str]:
    return git.environment(root, stage_environment())


def _dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*_program(), "--wait-for-lock", *arguments],
        cwd=root,
        env=_environment(root),
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return done.stdout
    if done.returncode == DVC_ERROR and lockfile.mend(root):
        return _dvc(root, *arguments)
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    message = next((line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")), " ".join(said))
    if any(sign in line for line in said for sign in BUSY):
        raise UserError(f"another DVC process is at work in {root}; try again when it has finished")
    if "No space left on device" in message or "Errno 28" in message:
        raise UserError(f"the disk is full: {message}; free some space and try again, nothing is lost")
    raise UserError(f"dvc {arguments[0]} failed: {' '.join(message.split())}")
