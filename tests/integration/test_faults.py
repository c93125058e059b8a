"""What breaks while it works: kills at random, a full disk, damaged files, a clock moved back, two machines at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import faults
from components import __main__ as stages
from components import training
from components.errors import UserError
from components.stage import STAGES
from flows import contest, fixity, inspection, judge, promote, record
from flows.adapters import versioning
from flows.audit import audit
from flows.publish import publish
from tests import tiny
from tests.artifacts_fixture import Fabricator
from tests.toy import Toy

DVC = [sys.executable, "-P", "-m", "dvc"]


@pytest.mark.slow
def test_killed_at_random_moments_a_stage_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINTSUGI_CHECKPOINT_SECONDS", "0")
    ran = ("augment", "train_vqvae")
    trials = faults.run(tmp_path / "workspace", 1, seed=os.getpid(), stages=ran, kill=("train_vqvae",))
    assert [each.equal for each in trials] == [True], trials


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes; skips where it may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_every_stage_says_one_line_and_succeeds_once_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    root = tiny.make(small_disk / "plant")
    monkeypatch.chdir(root)
    filler, whole = small_disk / "filler", dict[str, str]()
    for stage in STAGES:
        space = shutil.disk_usage(small_disk).free
        assert space > 2**20, "the disk is too small for the test itself"
        filler.write_bytes(bytes(space))
        assert stages.main([stage, "brick"]) == 1, stage
        said = capsys.readouterr().err.strip()
        assert said == f"{stage}@brick: the disk is full; free some space and run again, nothing is lost"
        assert {path: fixity.file_hash(root / path, "sha256") for path in whole} == whole
        filler.unlink()
        assert stages.main([stage, "brick"]) == 0, capsys.readouterr().err
        capsys.readouterr()
        for path in (root / "artifacts/brick" / stage).rglob("*.*"):
            whole[path.relative_to(root).as_posix()] = fixity.file_hash(path, "sha256")


def test_a_damaged_object_of_dvcs_cache_is_found_by_its_hash_and_fetched_again(toy: Toy, tmp_path: Path) -> None:
    subprocess.run([*DVC, "remote", "add", "--default", "folder", str(tmp_path / "remote")], cwd=toy.root, check=True)
    versioning.add_data(toy.root)
    versioning.repro_stage(toy.root, "augment@bolt")
    versioning.push(toy.root)
    out = toy.root / "artifacts/bolt/augment/made.txt"
    whole = out.read_text()
    md5 = versioning.stage_outs(toy.root, "bolt")["augment"].removesuffix(".dir")
    assert md5
    for cached in (toy.root / ".dvc/cache/files/md5").rglob("*"):
        if cached.is_file() and cached.read_bytes() == whole.encode():
            cached.chmod(0o644)
            cached.write_text("normal bulk\n")
    shutil.rmtree(out.parent)
    shutil.rmtree(toy.root / ".dvc/tmp")
    toy.calls()
    versioning.pull(toy.root, ["augment@bolt"])
    assert out.read_text() == whole and toy.calls() == []

    for stored in (tmp_path / "remote").rglob("*"):  # now the remote's is damaged as well
        if stored.is_file() and stored.read_bytes() == whole.encode():
            stored.chmod(0o644)
            stored.write_text("normal bulk\n")
    shutil.rmtree(out.parent)
    shutil.rmtree(toy.root / ".dvc/cache")
    versioning.repro_stage(toy.root, "augment@bolt")
    assert out.read_text() == whole  # made anew


def test_a_damaged_model_file_is_never_loaded(plant: Fabricator) -> None:
    root = plant.root
    assert publish(root, "brick").promoted
    stored = next((root / "mlartifacts").rglob("package/model.safetensors"))
    content = bytearray(stored.read_bytes())
    content[100] ^= 1
    stored.write_bytes(content)
    with pytest.raises(UserError, match="are not those that were registered; it is not used"):
        inspection.champion(root, "brick", None)
    assert not audit(root, "brick").verified


def test_a_clock_that_was_moved_back_does_not_turn_the_record_round(
    plant: Fabricator, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = plant.root
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    assert publish(root, "brick").promoted
    plant(seed=2)
    monkeypatch.setattr(record, "now", lambda: "2001-01-01T00:00:00.000+00:00")
    assert publish(root, "brick").production_version == "2"
    promote.rollback(root, "brick", "Ada", "too many stops")
    history = promote.history(root, "brick")
    assert history["kind"].tolist() == ["promotion", "promotion", "rollback"]
    assert history["when"].is_monotonic_increasing and history["when"].is_unique
    trail = audit(root, "brick")
    assert trail.verified, trail.broken


def test_of_two_machines_that_promote_at_once_one_wins_and_the_other_says_so(
    plant: Fabricator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plant.root
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    from tests.artifacts_fixture import set_params

    set_params(one, "manual")
    publish(one, "brick")
    other = Path(shutil.copytree(one, tmp_path / "other", ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts")))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{one / 'mlflow.db'}")
    both, real = threading.Barrier(2, timeout=30), contest.win

    def meet(*arguments: Any) -> None:  # both have written their intent down before either looks
        both.wait()
        real(*arguments)

    monkeypatch.setattr(contest, "win", meet)
    monkeypatch.setattr(record, "host", lambda: threading.current_thread().name)
    ends: dict[str, str] = {}

    def decide(root: Path, name: str) -> None:
        try:
            ends[name] = promote.promote(root, "brick", name, "it is better")
        except UserError as error:
            ends[name] = str(error)

    threads = [threading.Thread(target=decide, args=(r, n), name=n) for r, n in ((one, "line-1"), (other, "line-2"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    won = [name for name, end in ends.items() if end == "1"]
    lost = next(end for name, end in ends.items() if name not in won)
    assert len(won) == 1 and "was not made: another promotion is under way on line-" in lost, ends
    history = promote.history(one, "brick")
    assert sorted(history["status"]) == ["done", "failed"] and history["to_version"].tolist().count("1") == 1
    assert audit(one, "brick").verified
