"""Reproduction with real DVC and git: a snapshot run again elsewhere, the workspace left as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import UserError
from components.stage import STAGES
from flows.adapters import git, tracking
from flows.audit import audit
from flows.environment import stage_environment
from flows.publish import publish
from flows.reproduce import reproduce
from tests.artifacts_fixture import Fabricator, make_workspace

# A stage copies what it shall make out of recipe/, which git holds; DRIFT makes it come out otherwise.
RECIPE = """
import json, os, pathlib, shutil, sys
stage, category = sys.argv[1:]
out = pathlib.Path("artifacts", category, stage)
shutil.copytree(pathlib.Path("recipe", stage), out, dirs_exist_ok=True)
if stage == "evaluate":
    metrics = json.loads((out / "metrics.json").read_text())
    metrics["image_auroc"] -= float(os.environ.get("DRIFT", 0))
    (out / "metrics.json").write_text(json.dumps(metrics))
"""


def dvc(root: Path, *arguments: str) -> None:
    command = [sys.executable, "-P", "-m", "dvc", "-q", *arguments]
    subprocess.run(command, cwd=root, check=True, env=git.environment(root, stage_environment()))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, migrated_db: Path) -> Path:
    """A workspace whose stages ran under DVC itself, published."""
    root = make_workspace(tmp_path_factory.mktemp("reproduce") / "plant")
    shutil.copy(migrated_db, root / "mlflow.db")
    Fabricator(root)()
    shutil.copytree(root / "artifacts" / "brick", root / "recipe")
    for made in ("dvc.lock", "data.dvc"):
        (root / made).unlink()
    shutil.rmtree(root / ".dvc")
    shutil.rmtree(root / "artifacts")
    (root / "recipe.py").write_text(RECIPE)
    stages = []
    for before, stage in zip([None, *STAGES], STAGES, strict=False):
        deps = [f"artifacts/brick/{before}"] if before else []
        deps += ["data/brick"] if stage in ("augment", "evaluate") else []
        stages.append(
            f"  {stage}:\n    matrix:\n      category: [brick]\n"
            f"    cmd: python recipe.py {stage} ${{item.category}}\n    deps: [{', '.join(deps)}]\n"
            f"    outs:\n      - artifacts/${{item.category}}/{stage}\n"
        )
    (root / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    git.git(root, "add", "recipe", "recipe.py")  # a snapshot has what git tracks
    dvc(root, "init")
    dvc(root, "add", "data")
    dvc(root, "repro")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert publish(root, "brick").status == "promoted"
    return root


def test_hashes_are_those_that_dvc_itself_makes(ran: Path) -> None:
    report = audit(ran, "brick")
    assert report.verified, report.broken


@pytest.mark.slow
def test_a_version_comes_out_the_same_and_the_workspace_stays(ran: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in ran.rglob("*") if p.is_file() and ".git" not in p.parts}
    head = git.git(ran, "rev-parse", "HEAD")
    shutil.move(ran / "artifacts" / "brick" / "package", ran / "aside")
    result = reproduce(ran, "brick", "1")
    shutil.move(ran / "aside", ran / "artifacts" / "brick" / "package")
    assert result.identical and result.reproduced
    assert {line.status for line in result.lines} == {"same"}
    assert {line.name for line in result.lines if line.kind == "stage"} == set(STAGES)
    after = {p: p.stat().st_mtime_ns for p in ran.rglob("*") if p.is_file() and ".git" not in p.parts}
    changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert {p.relative_to(ran).parts[0] for p in changed} <= {"mlflow.db"}
    assert git.git(ran, "rev-parse", "HEAD") == head
    assert len(git.git(ran, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_what_comes_out_otherwise_is_named(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFT", "0.1")
    result = reproduce(ran, "brick")
    assert not result.reproduced
    odd = {line.name: (line.status, line.detail) for line in result.lines if line.status != "same"}
    assert odd["image_auroc"] == ("differs", "")
    assert odd["evaluate"] == ("differs", "metrics.json changed")


def test_a_snapshot_that_is_not_here_is_said_so(ran: Path) -> None:
    client = tracking.connect(ran)
    sha = client.get_model_version("production.brick", "1").tags["snapshot.sha"]
    client.set_model_version_tag("production.brick", "1", "snapshot.sha", "0" * 40)
    with pytest.raises(UserError, match="fetch refs/exps"):
        reproduce(ran, "brick", "1")
    client.set_model_version_tag("production.brick", "1", "snapshot.sha", sha)
