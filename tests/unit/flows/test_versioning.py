"""DVC and git behind their command lines, on real repositories."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.errors import UserError
from flows import fixity
from flows.adapters import git, lockfile, versioning
from flows.adapters.process import Cancellation, StoppedError, stream
from flows.adapters.versioning import LockBusyError, StageError
from flows.plan import make_plan
from tests.toy import Toy


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git without an identity or any configuration, as on a fresh machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


def test_no_git(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(toy.root))
    with pytest.raises(UserError, match="git is not installed"):
        versioning.add_data(toy.root)


def test_not_a_repository(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `git init`"):
        versioning.stage_graph(tmp_path)


def test_no_dvc(toy: Toy) -> None:
    shutil.rmtree(toy.root / ".dvc")
    with pytest.raises(UserError, match="run `dvc init`"):
        versioning.stale_stages(toy.root)


def test_data_version_follows_the_bytes(toy: Toy) -> None:
    first = versioning.add_data(toy.root)
    assert first.endswith(".dir") and len(first) == 36
    toy.image("bolt", "another image\n")
    second = versioning.add_data(toy.root)
    assert second != first
    assert versioning.data_md5(toy.root) == second
    toy.image("bolt", "normal bolt\n")
    assert versioning.add_data(toy.root) == first


def test_a_category_that_was_never_pulled_is_not_recorded_as_deleted(toy: Toy, tmp_path: Path) -> None:
    """On a second machine with one category of two, whose images have changed since."""
    toy.write(".dvc/config", f"[core]\n    remote = r\n['remote \"r\"']\n    url = {tmp_path / 'remote'}\n")
    whole = versioning.add_data(toy.root)
    versioning.push(toy.root, ["data.dvc"])
    shutil.rmtree(toy.root / "data")
    shutil.rmtree(toy.root / ".dvc/cache")
    versioning.pull(toy.root, ["data/bolt"])
    toy.image("bolt", "another image\n")
    with pytest.raises(UserError, match=r"^data/tile would be recorded as deleted.*`dvc pull data/tile`"):
        make_plan(toy.root, ["bolt"])
    assert versioning.data_md5(toy.root) == whole
    versioning.repro_stage(toy.root, "augment@bolt", pull=True)  # which is what the fleet's machines do
    assert versioning.data_md5(toy.root) == whole

    versioning.pull(toy.root, ["data/tile"])  # as the message says: nothing new is lost by it
    assert (toy.root / "data/bolt/image").read_text() == "another image\n"
    assert "augment@bolt" not in make_plan(toy.root, ["bolt"]).stale
    assert listed(toy) == {"bolt/image", "tile/image"}


def test_a_category_may_be_taken_out_of_the_data(toy: Toy) -> None:
    versioning.add_data(toy.root)
    shutil.rmtree(toy.root / "data/tile")
    params = (toy.root / "params.yaml").read_text()
    toy.write("params.yaml", params.replace("[bolt, tile]", "[bolt]"))
    versioning.add_data(toy.root)
    assert listed(toy) == {"bolt/image"}


@pytest.mark.parametrize("listing", ["gone", "torn"])
def test_where_no_listing_is_left_nothing_is_refused(toy: Toy, listing: str) -> None:
    md5 = versioning.add_data(toy.root)
    kept = toy.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    kept.chmod(0o644)
    kept.write_text('[{"md5"') if listing == "torn" else kept.unlink()
    shutil.rmtree(toy.root / "data/tile")
    versioning.add_data(toy.root)
    assert listed(toy) == {"bolt/image"}


def listed(toy: Toy) -> set[str]:
    """The paths in the recorded version of data/."""
    listing = fixity.Objects.of(toy.root).listing(versioning.data_md5(toy.root))
    assert listing is not None
    return set(listing)


def test_data_that_is_not_versioned_says_so(toy: Toy) -> None:
    with pytest.raises(UserError, match=r"no data\.dvc"):
        versioning.data_md5(toy.root)


def test_what_is_stale_and_why(toy: Toy) -> None:
    versioning.add_data(toy.root)
    assert versioning.stale_stages(toy.root)["augment@bolt"] == ["it has never run"]
    for stage in ("augment@bolt", "train_vqvae@bolt", "evaluate@bolt"):
        assert versioning.repro_stage(toy.root, stage).state == "ran"
    targets = ["augment@bolt", "train_vqvae@bolt", "evaluate@bolt"]
    assert versioning.stale_stages(toy.root, targets) == {}

    toy.settings(steps=4)
    assert versioning.stale_stages(toy.root, targets) == {
        "train_vqvae@bolt": ["setting vqvae of settings/standard.yaml changed"]
    }
    toy.settings()
    toy.image("bolt", "moved")
    shutil.rmtree(toy.root / "artifacts/bolt/evaluate")
    assert versioning.stale_stages(toy.root, [*targets, "data.dvc"]) == {
        "data.dvc": ["output data changed"],
        "augment@bolt": ["data/bolt changed"],
        "evaluate@bolt": ["output artifacts/bolt/evaluate is missing"],
    }


def test_repro_is_of_the_single_stage(toy: Toy) -> None:
    versioning.add_data(toy.root)
    lines: list[str] = []
    assert versioning.repro_stage(toy.root, "augment@bolt", lines.append).state == "ran"
    assert toy.calls() == ["augment@bolt"]
    # a carriage return ends a line: a progress bar is seen while it moves
    assert "augment 1/2 (50%) 4.1 it/s 1 s left loss=0.5" in lines
    assert versioning.repro_stage(toy.root, "augment@bolt").state == "unchanged"
    shutil.rmtree(toy.root / "artifacts/bolt/augment")
    assert versioning.repro_stage(toy.root, "augment@bolt").state == "restored"
    assert toy.calls() == []
    assert set(versioning.stage_outs(toy.root, "bolt")) == {"augment"}


def test_python_of_the_stages_is_this_one(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no virtual environment activated
    toy.write("toy.py", "import os, sys; os.makedirs('artifacts/bolt/augment'); print('it is', sys.prefix)")
    lines: list[str] = []
    versioning.repro_stage(toy.root, "augment@bolt", lines.append)
    assert f"it is {sys.prefix}" in lines


@pytest.mark.parametrize("code", [1, 2])
def test_a_failing_stage_tells_its_code_and_last_words(toy: Toy, code: int) -> None:
    versioning.add_data(toy.root)
    toy.tell("augment", "bolt", f"exit {code}")
    with pytest.raises(StageError) as caught:
        versioning.repro_stage(toy.root, "augment@bolt")
    assert caught.value.code == code
    assert caught.value.message == "it was told to fail"


def test_a_missing_input_is_told_and_is_no_crash(toy: Toy) -> None:
    with pytest.raises(UserError, match="artifacts/bolt/augment"):
        versioning.repro_stage(toy.root, "train_vqvae@bolt")


def test_a_busy_path_is_told_apart(toy: Toy) -> None:
    versioning.add_data(toy.root)
    held = {"write": {str(toy.root / "data" / "bolt"): {"pid": os.getpid(), "cmd": "dvc add data"}}, "read": {}}
    toy.write(".dvc/tmp/rwlock", json.dumps(held))
    with pytest.raises(LockBusyError):
        versioning.repro_stage(toy.root, "augment@bolt")


def test_stopping_leaves_no_process(toy: Toy) -> None:
    versioning.add_data(toy.root)
    toy.tell("augment", "bolt", "sleep 60")
    cancellation = Cancellation()
    started = toy.root / "started"

    def stop() -> None:
        while not (started.exists() and started.read_text()):
            time.sleep(0.05)
        cancellation.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    before = time.monotonic()
    with pytest.raises(StoppedError):
        versioning.repro_stage(toy.root, "augment@bolt", cancellation=cancellation)
    thread.join()
    assert time.monotonic() - before < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    (toy.root / "control/augment-bolt").unlink()
    assert versioning.repro_stage(toy.root, "augment@bolt").state == "ran"  # no lock was left behind


def test_what_does_not_heed_an_interrupt_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.adapters.process.GRACE", 0.2)
    cancellation = Cancellation()
    script = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done"
    with pytest.raises(StoppedError):
        stream(["sh", "-c", script], tmp_path, dict(os.environ), lambda line: cancellation.stop(), cancellation)


def test_snapshot_holds_untracked_settings_and_leaves_the_branch(toy: Toy, nobody: None) -> None:
    head = toy.git("rev-parse", "HEAD")
    toy.write("settings/paper.yaml", "new: true\n")
    toy.write("staged.txt", "staged\n")
    toy.git("add", "staged.txt")
    before = toy.git("status", "--porcelain")
    sha = versioning.snapshot(toy.root, "bolt-1")
    assert toy.git("show", f"{sha}:settings/paper.yaml") == "new: true"
    assert toy.git("rev-parse", f"{sha}^") == head == toy.git("rev-parse", "main")
    assert toy.git("status", "--porcelain") == before
    assert toy.git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert "image" not in toy.git("ls-tree", "-r", "--name-only", sha)  # data/ is DVC's
    assert toy.git("reflog", "show", "HEAD").count("\n") == 0

    assert versioning.snapshot(toy.root, "bolt-2") == sha  # nothing changed: the same one
    toy.settings(steps=9)
    assert versioning.snapshot(toy.root, "bolt-1") != sha  # a taken name keeps its commit
    assert sha in toy.git("for-each-ref", "--format=%(objectname)", "refs/exps")


def names_in(root: Path, commit: str) -> set[str]:
    command = ["git", "ls-tree", "-r", "-z", "--name-only", commit]
    return {os.fsdecode(name) for name in subprocess.check_output(command, cwd=root).split(b"\0") if name}


def test_a_snapshot_leaves_out_what_no_model_is_made_of(toy: Toy) -> None:
    toy.write(".gitignore", (toy.root / ".gitignore").read_text() + "*.pyc\n")
    toy.write("staged.py", "new code\n")
    toy.git("add", "staged.py")
    toy.write("toy.py", "changed\n")
    (toy.root / "settings/standard.yaml").unlink()
    odd = os.fsdecode(b"components/any bytes \xff\n.py")
    new = ["components/new.py", "settings/paper.yaml", "data.dvc", odd]
    for name in new:
        toy.write(name, "a model is made of this\n")
    for name in ("photos/bolts/0.png", ".env", "id_ed25519", "notes/components/x.py", "components/new.pyc"):
        toy.write(name, "nobody else's business\n")
    sha = versioning.snapshot(toy.root, "bolt-1")
    assert names_in(toy.root, sha) == names_in(toy.root, "HEAD") - {"settings/standard.yaml"} | {*new, "staged.py"}
    assert toy.git("show", f"{sha}:toy.py") == "changed"


def test_a_snapshot_before_the_first_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=tmp_path, check=True)
    for name in ("params.yaml", "photos/0.png", "tracked.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    subprocess.run(["git", "add", "tracked.txt"], cwd=tmp_path, check=True)
    sha = versioning.snapshot(tmp_path, "first")
    assert names_in(tmp_path, sha) == {"params.yaml", "tracked.txt"}


def test_photographs_and_environments_are_ignored(workspace: Path) -> None:
    for name in ("photos/bolts/0.png", ".env", ".env.local", "infra/.env"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("private")
    assert versioning.git_state(workspace).dirty is False


def test_dvc_knows_the_snapshot_as_an_experiment(toy: Toy) -> None:
    versioning.snapshot(toy.root, "bolt-1")
    listed = subprocess.run(
        ["dvc", "exp", "list", "--name-only"], cwd=toy.root, capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == ["bolt-1"]


def test_a_checkout_of_another_owner(toy: Toy, nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = subprocess.run(["git", "status"], cwd=toy.root, capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr  # the trap is set
    assert len(versioning.git_state(toy.root).sha) == 40
    assert len(versioning.snapshot(toy.root, "bolt-1")) == 40


def test_git_state(toy: Toy) -> None:
    clean = versioning.git_state(toy.root)
    assert (clean.branch, clean.dirty, len(clean.sha)) == ("main", False, 40)
    toy.settings(steps=8)
    assert versioning.git_state(toy.root).dirty


def test_commit_data_moves_only_the_branch_it_names(toy: Toy, nobody: None) -> None:
    main = toy.git("rev-parse", "main")
    versioning.add_data(toy.root)
    toy.write("unrelated.txt", "staged by the user\n")
    toy.git("add", "unrelated.txt")
    other = versioning.commit_data(toy.root, "production", "data: first images")
    assert toy.git("rev-parse", "production") == other
    assert toy.git("rev-parse", "main") == main
    assert toy.git("diff", "--name-only", main, other) == "data.dvc"

    here = versioning.commit_data(toy.root, "main", "data: first images")
    assert toy.git("rev-parse", "HEAD") == here
    assert toy.git("status", "--porcelain") == "A  unrelated.txt"
    assert versioning.commit_data(toy.root, "main", "again") == here  # nothing new, no commit


def test_a_commit_that_broke_off_before_the_index_is_ended_by_the_next(toy: Toy) -> None:
    """Else the user's next commit would take data.dvc back."""
    versioning.add_data(toy.root)
    toy.write(".git/index.lock", "")  # as a git that was killed leaves it
    with pytest.raises(UserError, match="another git command"):
        versioning.commit_data(toy.root, "main", "data: first images")
    (toy.root / ".git/index.lock").unlink()
    assert toy.git("diff", "--cached", "--name-only") == "data.dvc"
    assert versioning.commit_data(toy.root, "main", "data: first images") == toy.git("rev-parse", "main")
    assert toy.git("rev-list", "--count", "main") == "2" and toy.git("status", "--porcelain") == ""


@pytest.mark.parametrize("there", [True, False])
def test_two_commits_to_one_branch_at_once_both_stay(toy: Toy, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write("data.dvc", "ours\n")
    toy.write("theirs.txt", "theirs\n")
    if there:
        toy.git("branch", "data")
    real, others = git.commit_tree, ["theirs"]

    def overtaken(root: Path, *arguments: object) -> str:
        sha = real(root, *arguments)
        if others:
            git.commit_files(root, "data", ["theirs.txt"], others.pop())
        return sha

    monkeypatch.setattr(git, "commit_tree", overtaken)
    sha = git.commit_files(toy.root, "data", ["data.dvc"], "ours")
    assert sha == toy.git("rev-parse", "data")
    assert toy.git("log", "--format=%s", "main..data").split() == ["ours", "theirs"]
    assert (toy.git("show", "data:data.dvc"), toy.git("show", "data:theirs.txt")) == ("ours", "theirs")


def test_a_branch_that_cannot_be_moved_is_told(toy: Toy) -> None:
    toy.write("data.dvc", "ours\n")
    toy.write(".git/refs/heads/data.lock", "")
    with pytest.raises(UserError, match="git update-ref failed"):
        versioning.commit_data(toy.root, "data", "ours")


def test_the_leash_ends_a_group_whose_holder_was_killed(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, time\n"
        "from flows.adapters.leash import leashed\n"
        "p = subprocess.Popen(leashed(['sh', '-c', 'echo $$ > pid; sleep 60']), start_new_session=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    deadline = time.monotonic() + 20
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    child = int((tmp_path / "pid").read_text())
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its holder")


def test_a_lock_torn_by_a_kill_is_mended(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = ("augment@bolt", "train_vqvae@bolt", "evaluate@bolt")
    versioning.add_data(toy.root)
    for stage in stages:
        versioning.repro_stage(toy.root, stage)
    lock = toy.root / "dvc.lock"
    whole, outs = lock.read_text(), versioning.stage_outs(toy.root, "bolt")
    assert len(outs) == 3 and not lockfile.mend(toy.root) and lock.read_text() == whole

    monkeypatch.setattr(lockfile, "SETTLED", 0.0)
    ends = [at + 1 for at, letter in enumerate(whole) if letter == "\n"][:-1]
    for cut in sorted({*ends, *range(0, len(whole), 50)}):
        lock.write_text(whole[:cut])
        lockfile.mend(toy.root, before=whole)  # where only a size is lost there is nothing to mend
        assert versioning.stage_outs(toy.root, "bolt") == outs, cut
    lock.write_text(whole[: len(whole) // 2])
    lockfile.mend(toy.root)
    assert set(versioning.stage_outs(toy.root, "bolt")) < set(outs)

    # What is lost comes back without running anything; and a commit knows more.
    toy.calls()
    lock.write_text("")
    assert set(versioning.stage_graph(toy.root)) >= set(stages)
    assert [versioning.repro_stage(toy.root, stage).state for stage in stages] == ["restored"] * 3
    assert toy.calls() == [] and versioning.stage_outs(toy.root, "bolt") == outs
    toy.git("add", "dvc.lock")
    toy.git("commit", "-q", "-m", "the lock")
    lock.write_text("")
    assert versioning.stale_stages(toy.root, stages) == {}
