"""What a version was made from: collected once, set as flat tags on the run and on the model version."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.dataset.split import judged
from components.errors import UserError
from components.settings import read_params
from flows import fixity
from flows.adapters import git, tracking, versioning

LIBRARIES = (
    "torch", "numpy", "opencv-python", "pandas", "scikit-learn", "safetensors", "mlflow", "prefect", "dvc",
    "great-expectations",
)  # fmt: skip
TAG_LIMIT = 5000  # characters; MLflow cuts run tags at 8000, older servers at 5000


@dataclass(frozen=True)
class State:
    """The finished stages of one category as dvc.lock records them, and what tells two publications apart."""

    category: str
    lock: Mapping[str, Any]  # stage name without @category -> its entry

    @property
    def data_md5(self) -> str:
        """DVC's md5 of data/<category> that the stages saw."""
        return _entry_md5(self.lock["augment"], "deps", f"data/{self.category}")

    @property
    def one_data(self) -> bool:
        """Whether `evaluate` read the images that `augment` did: both read data/<category>, hours apart."""
        return self.input_md5("evaluate", f"data/{self.category}") == self.data_md5

    @property
    def outs(self) -> dict[str, str]:
        """Stage to md5 of its output folder."""
        return {stage: str(entry["outs"][0]["md5"]) for stage, entry in sorted(self.lock.items())}

    @property
    def identity(self) -> str:
        """sha256 of the category's part of dvc.lock: its data, code, settings and every output.

        Not of the whole file, in which another category's retraining would make this one look new.
        """
        return fixity.text_sha256(json.dumps(self.lock, sort_keys=True))

    def input_md5(self, stage: str, path: str) -> str:
        """md5 that a stage recorded for one of its dependencies, empty when it has none of that path."""
        return _entry_md5(self.lock.get(stage, {}), "deps", path)


def parse_lock(text: str, category: str) -> State:
    """Read one category's stages from the text of a dvc.lock; UserError when it cannot be read."""
    try:
        stages = (YAML(typ="safe").load(text) or {}).get("stages") or {}
    except (YAMLError, AttributeError):
        raise UserError("dvc.lock is not valid; restore it from git or run `kintsugi run`") from None
    mine = {n.removesuffix(f"@{category}"): e for n, e in stages.items() if n.endswith(f"@{category}")}
    return State(category, mine)


def read_state(root: Path, category: str) -> State:
    """The present state of a category; UserError when its stages have not all run, or not on the same images."""
    path = root / "dvc.lock"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    state = parse_lock(text, category)
    lacking = [s for s in ("augment", "calibrate", "evaluate", "package") if s not in state.lock]
    if lacking:
        raise UserError(f"'{category}' lacks stages ({', '.join(lacking)}); do `kintsugi run {category}`")
    if not state.one_data:
        raise UserError(f"data/{category} changed while '{category}' was trained; do `kintsugi run {category}` again")
    return state


def package_md5(root: Path, state: State) -> str:
    """md5 of artifacts/<category>/package; UserError when it is not the one that dvc.lock records."""
    found = fixity.listing_md5(fixity.listing(root / "artifacts" / state.category / "package"))
    if found != state.outs["package"]:
        where = f"artifacts/{state.category}/package"
        raise UserError(f"{where} is not what dvc.lock records; do `kintsugi run {state.category}`")
    return found


def test_identity(root: Path, state: State, evaluated_on: str) -> str:
    """sha256 of all that a score depends on beside the model: test images, masks, and `evaluate`'s code and settings.

    The code is every dependency of the stage below components/, as dvc.lock has it: what inspects, restores and
    counts is as much of a score as the protocol. Two versions' metrics may be compared as they stand only when this
    is equal.
    """
    manifest = tracking.read_manifest(root / "artifacts" / state.category)
    rows = judged(manifest).sort_values("path")
    digest, evaluate = hashlib.sha256(), state.lock["evaluate"]
    data = root / "data" / state.category
    for row in rows.to_dict("records"):
        mask = data / row["mask"] if row["mask"] else None
        painted = fixity.file_hash(mask, "sha256") if mask is not None and mask.is_file() else ""
        digest.update(f"{row['path']}|{row['sha256']}|{row['label']}|{row['defect']}|{painted}\n".encode())
    code = sorted((d["path"], d["md5"]) for d in evaluate.get("deps") or () if d["path"].startswith("components/"))
    settings = json.dumps(evaluate.get("params") or {}, sort_keys=True)
    digest.update(f"{evaluated_on}|{json.dumps(code)}|{settings}".encode())
    return digest.hexdigest()


def texts(root: Path, snapshot: str, settings_file: str) -> dict[str, str]:
    """The snapshot's files that say how the version came about, by their names among the run's artifacts."""
    names = ("dvc.lock", "dvc.yaml", "data.dvc", "params.yaml", settings_file)
    found = {name: committed(root, snapshot, name) for name in names}
    return {f"lineage/{name}": text for name, text in found.items() if text is not None}


def committed(root: Path, sha: str, path: str) -> str | None:
    """Text of a workspace file in a commit, byte for byte; None when the commit has no such file."""
    command = ["git", "show", f"{sha}:./{path}"]
    done = subprocess.run(command, cwd=root, env=git.environment(root), capture_output=True)
    return done.stdout.decode("utf-8") if done.returncode == 0 else None


def collect(
    root: Path,
    state: State,
    evaluated_on: str,
    prefect_run_id: str | None,
    validation: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Take the snapshot and return the lineage of DESIGN section 5 as flat tags.

    Raises UserError when there is no git repository to take the snapshot in.
    """
    category = state.category
    settings = f"settings/{read_params(root)['settings']}.yaml"
    head = versioning.git_state(root)
    snapshot = versioning.snapshot(root, f"{category}-{state.identity[:12]}")
    # Hashes are those of the snapshot: another category's stage may rewrite dvc.lock at any moment.
    lock, params, chosen, data = (
        committed(root, snapshot, name) or "" for name in ("dvc.lock", "params.yaml", settings, "data.dvc")
    )
    if parse_lock(lock, category).identity != state.identity:
        raise UserError(f"'{category}' changed while being published; do `kintsugi run {category}` again")
    manifest = root / "artifacts" / category / "augment" / "manifest.csv"
    if validation and validation.get("data_md5") != state.data_md5:
        validation = None  # of other images: some of this version's have not been looked at
    tags = {
        "category": category,
        "identity": state.identity,
        "git.sha": head.sha,
        "git.dirty": str(head.dirty).lower(),
        "snapshot.sha": snapshot,
        "data.md5": state.data_md5,
        "data.all_md5": data_md5_in(data) if data else "",
        "dvc_lock.sha256": fixity.text_sha256(lock),
        "params.sha256": fixity.text_sha256(params),
        "settings.file": settings,
        "settings.sha256": fixity.text_sha256(chosen),
        "manifest.sha256": fixity.file_hash(manifest, "sha256"),
        "test.identity": test_identity(root, state, evaluated_on),
        "evaluated_on": evaluated_on,
        "prefect.run_id": prefect_run_id or os.environ.get("PREFECT__FLOW_RUN_ID", "") or "none",
        "gx.success": str(validation.get("success", "unknown")).lower() if validation else "not run",
        "gx.result": json.dumps(validation, sort_keys=True, default=str) if validation else "none",
        "version.python": platform.python_version(),
    }
    tags |= {f"stage.{stage}.md5": md5 for stage, md5 in state.outs.items()}
    tags |= {f"version.{name}": _version(name) for name in LIBRARIES}
    return {key: value[:TAG_LIMIT] for key, value in tags.items()}


def data_md5_in(data_dvc: str) -> str:
    """The md5 that the text of a data.dvc records."""
    return str(YAML(typ="safe").load(data_dvc)["outs"][0]["md5"])


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _entry_md5(entry: Mapping[str, Any], kind: str, path: str) -> str:
    return next((str(item["md5"]) for item in entry.get(kind) or () if item["path"] == path), "")
