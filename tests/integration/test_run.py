"""The retraining flow on real DVC and a real Prefect server; only the stages' work is a toy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.errors import UserError
from components.settings import read_params
from flows import transaction
from flows.adapters import versioning
from flows.adapters.process import Cancellation, StoppedError
from flows.adapters.versioning import LockBusyError, StageError
from flows.outcome import CategoryOutcome, StageOutcome, recall
from flows.plan import read_nodes
from flows.record import ContestedError
from flows.run import run
from tests import tiny
from tests.toy import Toy

CATEGORIES = ("bolt", "tile")


@dataclass
class Registry:
    """Stands where publishing does, and remembers whom it was called for."""

    status: str = "promoted"
    published: list[str] = field(default_factory=list)

    def publish(self, root: Path, category: str, prefect_run_id: str | None = None, validation: Any = None) -> Any:
        assert prefect_run_id
        new = category not in self.published
        self.published.append(category)
        return SimpleNamespace(status=self.status, message=f"{category} {self.status}", version="1", new=new)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    monkeypatch.setattr("flows.publish.publish", made.publish)
    monkeypatch.setattr("flows.retrain.RETRY_DELAYS", [0.1, 0.1])
    return made


def states(outcomes: list[CategoryOutcome]) -> dict[str, str]:
    return {stage.name: stage.state for outcome in outcomes for stage in outcome.stages}


def task_states() -> dict[str, str]:
    """State names of the latest flow run's tasks, once the server knows them all."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        (latest,) = client.read_flow_runs(limit=1, sort="START_TIME_DESC")
        only = FlowRunFilter(id=FlowRunFilterId(any_=[latest.id]))
        deadline = time.monotonic() + 30  # task states arrive as events
        while time.monotonic() < deadline:
            tasks = client.read_task_runs(flow_run_filter=only)
            if tasks and all(task.state and task.state.is_final() for task in tasks):
                break
            time.sleep(0.2)
        return {task.name: str(task.state_name) for task in tasks}


def flow_state() -> tuple[str, str]:
    """Type and message of the latest flow run's state."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        (latest,) = client.read_flow_runs(limit=1, sort="START_TIME_DESC")
    assert latest.state is not None
    return latest.state.type.value, str(latest.state.message)


def test_only_what_changed_runs_again(prefect_harness: str, toy: Toy, registry: Registry) -> None:
    first = run(toy.root)
    assert set(states(first).values()) == {"ran"}
    assert len(toy.calls()) == 6 and sorted(registry.published) == ["bolt", "tile"]

    second = run(toy.root)
    assert toy.calls() == []
    assert set(states(second).values()) == {"skipped"}
    stages = [stage for outcome in second for stage in outcome.stages if stage.stage != "publish"]
    assert all("unchanged" in stage.reason for stage in stages)
    names = {f"{stage}@{category}" for stage in ("augment", "train_vqvae", "evaluate") for category in CATEGORIES}
    published = dict.fromkeys([f"publish@{category}" for category in CATEGORIES], "Promoted")
    assert task_states() == {**dict.fromkeys(names, "Skipped"), **published}

    toy.settings(gallery=5)  # a setting of evaluate, for both; and new images, for one
    toy.image("tile", "a new image\n")
    third = run(toy.root)
    assert toy.calls() == ["augment@tile", "evaluate@bolt", "evaluate@tile", "train_vqvae@tile"]
    reasons = {stage.name: stage.reason for outcome in third for stage in outcome.stages}
    assert reasons["evaluate@bolt"] == "setting evaluate of settings/standard.yaml changed"
    assert reasons["augment@tile"] == "data/tile changed"
    assert reasons["train_vqvae@tile"] == "augment ran before it"
    kept = recall(toy.root, "tile")
    assert kept is not None and kept["verdict"] == "promoted"


def test_a_failure_stops_its_category_and_no_other_and_a_crash_is_tried_again(
    prefect_harness: str, toy: Toy, registry: Registry
) -> None:
    toy.tell("train_vqvae", "bolt", "exit 2")
    toy.tell("augment", "tile", "once exit 1")
    outcomes = {outcome.category: outcome for outcome in run(toy.root)}
    assert states([outcomes["bolt"]]) == {
        "augment@bolt": "ran",
        "train_vqvae@bolt": "failed",
        "evaluate@bolt": "not run",
        "publish@bolt": "not run",
    }
    assert outcomes["bolt"].error == "train_vqvae: it was told to fail"
    assert not outcomes["bolt"].ok
    assert outcomes["tile"].ok and registry.published == ["tile"]
    calls = toy.calls()
    assert calls.count("train_vqvae@bolt") == 1  # a wrong input is not tried again
    assert calls.count("augment@tile") == 2  # a crash is


def test_a_stage_that_is_cut_off_is_told_and_is_no_success(
    prefect_harness: str, toy: Toy, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = versioning.repro_stage

    def cut_off(root: Path, name: str, *others: Any) -> Any:
        if name == "train_vqvae@bolt":
            raise asyncio.CancelledError  # as Prefect does to a thread whose lease or time is over
        return real(root, name, *others)

    monkeypatch.setattr(versioning, "repro_stage", cut_off)
    outcomes = {outcome.category: outcome for outcome in run(toy.root)}
    assert outcomes["tile"].ok and registry.published == ["tile"]
    assert states([outcomes["bolt"]])["train_vqvae@bolt"] == "failed" and not outcomes["bolt"].ok
    told = "train_vqvae: it was cut off (CancelledError); run again, it resumes"
    assert outcomes["bolt"].error == told
    assert flow_state() == ("FAILED", f"bolt: {told}")


def test_what_prefect_never_started_is_told(
    prefect_harness: str, toy: Toy, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain

    monkeypatch.setattr(retrain, "_submit", lambda session, categories: None)
    (outcome,) = run(toy.root, ["bolt"])
    assert outcome.error == "augment: it was never started; Prefect's log says why"
    assert flow_state()[0] == "FAILED"


def test_training_outlives_a_lost_lease(
    prefect_harness: str, toy: Toy, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.concurrency import _leases

    def lost(*arguments: Any) -> None:
        raise ConnectionError("the server was restarted")

    monkeypatch.setattr(_leases, "_lease_renewal_loop", lost)
    toy.tell("train_vqvae", "bolt", "sleep 3")
    (outcome,) = run(toy.root, ["bolt"])
    assert outcome.ok and set(states([outcome]).values()) == {"ran"}


def test_images_that_land_before_the_lock_is_taken_are_learned_from(
    prefect_harness: str, toy: Toy, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(toy.root, ["bolt"])

    def read(root: Path, categories: Any) -> Any:
        nodes = read_nodes(root, categories)
        toy.image("bolt", "landed in between\n")
        return nodes

    monkeypatch.setattr("flows.run.read_nodes", read)
    assert set(states(run(toy.root, ["bolt"])).values()) == {"ran", "skipped"}  # published before, by the stand-in
    assert toy.calls().count("augment@bolt") == 2


def test_a_run_trains_on_the_settings_before_a_killed_choice(
    prefect_harness: str, toy: Toy, registry: Registry
) -> None:
    toy.write(".kintsugi/choosing/bolt.json", '{"latent": "pixels"}')
    tried = {"bolt": {"vqvae": {"latent": "features", "allocation": "fixed"}}, "tile": {"vqvae": {}}}
    tiny.edit(toy.root / "params.yaml", lambda params: params.update(overrides=tried))
    run(toy.root, ["bolt"])
    assert read_params(toy.root)["overrides"]["bolt"] == {"vqvae": {"latent": "pixels"}}
    assert states(run(toy.root, ["bolt"]))["train_vqvae@bolt"] == "skipped"


def test_what_becomes_of_an_outcome() -> None:
    stage = StageOutcome("augment", "bolt", "ran", 1.0, "new")
    refused = CategoryOutcome("bolt", (stage,), SimpleNamespace(status="refused", message=""))
    assert refused.refused and not refused.error and not refused.ok
    assert CategoryOutcome("bolt", (stage,), SimpleNamespace(status="waiting", message="")).ok
    assert not CategoryOutcome("bolt", (stage,)).ok and CategoryOutcome("bolt", (stage,)).error  # never published


def test_what_may_pass_and_what_cannot() -> None:
    from flows.retrain import may_pass

    assert may_pass(LockBusyError("busy"))
    assert may_pass(OSError(28, "no space"))
    assert may_pass(StageError("augment@bolt", 1, "crash"))
    assert may_pass(StageError("augment@bolt", -9, "out of memory"))
    assert not may_pass(StageError("augment@bolt", 2, "wrong input"))
    assert not may_pass(UserError("wrong input"))
    assert not may_pass(ValueError("a bug"))


def test_a_stopped_run_starts_nothing_more(prefect_harness: str, toy: Toy, registry: Registry) -> None:
    cancellation = Cancellation()
    cancellation.stop()
    with pytest.raises(StoppedError):
        run(toy.root, cancellation=cancellation)
    assert toy.calls() == [] and registry.published == []


def test_unknown_and_empty_categories(prefect_harness: str, toy: Toy, registry: Registry) -> None:
    with pytest.raises(UserError, match="did you mean 'tile'"):
        run(toy.root, ["tiel"])
    (toy.root / "data/tile/image").unlink()
    (toy.root / "data/tile").rmdir()
    with pytest.raises(UserError, match="has no images in data/tile"):
        run(toy.root, ["tile"])


def test_one_run_per_category(prefect_harness: str, toy: Toy, registry: Registry) -> None:
    from flows.server import exclusive

    holder = exclusive(toy.root / ".kintsugi/locks/bolt.lock")
    with holder as taken:
        assert not taken
        with pytest.raises(UserError, match="is being retrained by process"):
            run(toy.root, ["bolt"])


def test_a_decision_under_way_elsewhere_does_not_fail_a_run_at_its_end(
    prefect_harness: str, toy: Toy, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def publish(*arguments: Any, **named: Any) -> Any:
        tries.append("publish")
        if len(tries) < 3:
            raise ContestedError("a promotion of 'bolt' is under way on line-2; try again later")
        return registry.publish(*arguments, **named)

    monkeypatch.setattr("flows.publish.publish", publish)
    monkeypatch.setattr("flows.retrain.PUBLISH_DELAYS", [0.1, 0.1])
    (outcome,) = run(toy.root, ["bolt"])
    assert outcome.ok and len(tries) == 3


def test_publishing_is_tried_for_longer_than_a_dead_machines_decision_is_respected() -> None:
    from flows.retrain import PUBLISH_DELAYS, published_later  # imports Prefect, which reads its settings then

    assert published_later(ContestedError("a promotion is under way on line-2; try again later"))
    assert not published_later(UserError("'bolt' lacks stages; do `kintsugi run bolt`"))
    assert sum(PUBLISH_DELAYS) > transaction.FOREIGN_PATIENCE.total_seconds()


# The program as it is, publishing aside: a process of its own, its own temporary Prefect server.
PROGRAM = """
import sys
from types import SimpleNamespace
import flows.publish
def publish(root, category, prefect_run_id=None, validation=None):
    gates = SimpleNamespace(checks=(), failed=())
    return SimpleNamespace(status="promoted", message=f"{category} promoted", new=True, gates=gates)
flows.publish.publish = publish
from flows.cli import main
main(["run", "bolt", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_interrupted_killed_and_resumed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    def start(*options: str) -> subprocess.Popen[str]:
        (toy.root / "started").unlink(missing_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def training(process: subprocess.Popen[str]) -> int:
        deadline = time.monotonic() + 60
        while not ((toy.root / "started").exists() and (toy.root / "started").read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        return int((toy.root / "started").read_text())

    toy.tell("train_vqvae", "bolt", "sleep 60")
    process = start()
    stage = training(process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "kintsugi: stopped; the next run resumes from the last checkpoint"
    assert "Traceback" not in errors and output == ""
    assert gone(stage)

    process = start()
    stage = training(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while not gone(stage) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(stage)

    # The killed run held the gpu slot and DVC's locks; neither keeps the next one waiting.
    (toy.root / "control/train_vqvae-bolt").unlink()
    process = start("--json")
    try:
        output, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:  # say what it waits for
        processes = subprocess.run(
            ["ps", "-eo", "pid,ppid,pgid,stat,etime,args"], capture_output=True, text=True
        ).stdout
        locks = [path.read_text() for path in toy.root.glob(".dvc/tmp/rwlock*")]
        process.send_signal(signal.SIGINT)
        pytest.fail(f"{process.communicate(timeout=30)[1]}\n{processes}\n{locks}")
    assert process.returncode == 0, errors
    (report,) = json.loads(output)
    assert [(s["stage"], s["state"]) for s in report["stages"]] == [
        ("augment", "skipped"), ("train_vqvae", "ran"), ("evaluate", "ran"), ("publish", "ran"),
    ]  # fmt: skip


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
