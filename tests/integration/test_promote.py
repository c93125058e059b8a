"""Promotion as one transaction: faults and SIGKILL at every step, two at once, rollback, the record."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.errors import UserError
from flows import judge, promote, record, transaction, turn
from flows.adapters import registry, tracking
from flows.publish import publish
from tests.artifacts_fixture import Fabricator, make_workspace, set_params

STEPS = ("recorded", "copied", "previous moved", "champion moved", "marked", "closed")
COMMITTED = ("champion moved", "marked", "closed")
FRESH = multiprocessing.get_context("forkserver")  # a clean process without paying MLflow's import each time
FRESH.set_forkserver_preload(["mlflow", "flows.publish", "tests.artifacts_fixture"])


@pytest.fixture(scope="module")
def served_once(tmp_path_factory: pytest.TempPathFactory, migrated_db: Path) -> Path:
    """Version 1 serves, version 2 waits."""
    root = make_workspace(tmp_path_factory.mktemp("template") / "plant", policy="manual")
    shutil.copy(migrated_db, root / "mlflow.db")
    fabricate = Fabricator(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
        fabricate()
        publish(root, "brick")
        promote.promote(root, "brick", "Ada", "the first")
        fabricate(seed=2)
        assert publish(root, "brick").status == "waiting"
    return root


@pytest.fixture
def root(served_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, so that every test breaks its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Path(shutil.copytree(served_once, tmp_path / "plant"))


def aliases(client: MlflowClient) -> dict[str, str]:
    return {k: str(v) for k, v in client.get_registered_model("production.brick").aliases.items()}


def state(root: Path) -> dict[str, Any]:
    """All that a promotion may change."""
    client = tracking.connect(root)
    marks = {
        f"{v.name} {v.version}": v.tags.get("promotion")
        for name in ("staging.brick", "production.brick")
        for v in registry.versions(client, name)
    }
    return {"aliases": aliases(client), "marks": marks}


def settle(root: Path) -> None:
    client = tracking.connect(root)
    with record.exclusive(root, "brick", wait=0):
        transaction.repair(client, root, "brick")


def assert_whole(root: Path) -> None:
    """Nothing pending, nothing doubled, and the record says what the alias says."""
    client = tracking.connect(root)
    assert record.pending(client, root, "brick") == []
    copies = Counter(v.tags["identity"] for v in registry.versions(client, "production.brick"))
    assert set(copies.values()) == {1}
    assert record.served(promote.history(root, "brick"))[-1]["version"] == aliases(client)["champion"]


def killed(root: Path, module: str, attribute: str, when: str, call: str, arguments: tuple[Any, ...]) -> int:
    """Run `call` in a process that kills itself on reaching `attribute` (with `when` first); its exit code."""
    child = FRESH.Process(target=_run_and_die, args=(root, module, attribute, when, call, arguments))
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def _run_and_die(root: Path, module: str, attribute: str, when: str, call: str, arguments: tuple[Any, ...]) -> None:
    owner = importlib.import_module(module)
    real = getattr(owner, attribute)

    def trap(*args: Any, **kwargs: Any) -> Any:
        if not when or args[0] == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, attribute, trap)
    judge.latencies = lambda packages, root, category: [0.1] * len(packages)
    where, name = call.rsplit(".", 1)
    getattr(importlib.import_module(where), name)(root, *arguments)


def test_promotion_moves_both_aliases_and_is_on_record(root: Path) -> None:
    assert promote.promote(root, "brick", "Grace", "better on scratches") == "2"
    assert state(root)["aliases"] == {"champion": "2", "previous": "1"}
    last = promote.history(root, "brick").iloc[-1]
    assert (last["kind"], last["status"], last["from_version"], last["to_version"]) == (
        "promotion", "done", "1", "2",
    )  # fmt: skip
    assert (last["by"], last["why"]) == ("Grace", "better on scratches")
    version = tracking.connect(root).get_model_version("production.brick", "2")
    assert last["data_md5"] == version.tags["data.md5"] and last["gate_digest"] == version.tags["gates.digest"]
    assert last["run_id"] == version.run_id
    assert version.source == "models:/staging.brick/2"


def test_what_serves_already_is_not_promoted_again(root: Path) -> None:
    before = len(promote.history(root, "brick"))
    with pytest.raises(UserError, match="serves already"):
        promote.promote(root, "brick", "Ada", "again", version="1")
    assert len(promote.history(root, "brick")) == before


def test_rollback_returns_to_the_version_before_and_back(root: Path) -> None:
    with pytest.raises(UserError, match="nothing to roll back to"):
        promote.rollback(root, "brick", "Ada", "none before")
    promote.promote(root, "brick", "Ada", "newer")
    assert promote.rollback(root, "brick", "Grace", "false alarms at night") == "1"
    assert state(root)["aliases"] == {"champion": "1", "previous": "2"}
    assert state(root)["marks"]["staging.brick 2"] == "rolled back"
    assert publish(root, "brick").status == "rolled back"  # a rerun must not undo a person's decision
    assert promote.promote(root, "brick", "Ada", "cause found", version="2") == "2"
    assert_whole(root)
    table = promote.history(root, "brick")
    assert list(table["kind"]) == ["promotion", "promotion", "rollback", "promotion"]
    assert [r["version"] for r in record.served(table)] == ["1", "2", "1", "2"]


def test_only_who_names_a_version_overturns_what_a_person_decided_about_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    Fabricator(root)(seed=3)
    assert publish(root, "brick").version == "3"
    promote.refuse(root, "brick", "Grace", "not before the audit")
    with pytest.raises(UserError, match=r"version 3 was turned down; .* --version 3; waiting: 2, to be named"):
        promote.promote(root, "brick", "Ada", "the newest is the best")
    promote.promote(root, "brick", "Ada", "the audit is over", version="3")
    promote.rollback(root, "brick", "Grace", "false alarms at night")
    before = promote.history(root, "brick")
    with pytest.raises(UserError, match=r"version 3 was rolled back; .* --version 3; waiting: 2, to be named"):
        promote.promote(root, "brick", "Ada", "the newest is the best")
    assert state(root)["aliases"]["champion"] == "1" and promote.history(root, "brick").equals(before)
    promote.promote(root, "brick", "Ada", "cause found", version="3")
    assert_whole(root)


def test_an_auto_policy_does_not_bring_a_rolled_back_version_back(root: Path) -> None:
    promote.promote(root, "brick", "Ada", "newer")
    promote.rollback(root, "brick", "Grace", "false alarms")
    set_params(root, "auto")
    assert publish(root, "brick").status == "rolled back"
    assert state(root)["aliases"]["champion"] == "1"


def test_a_person_may_turn_a_version_down(root: Path) -> None:
    promote.refuse(root, "brick", "Grace", "not before the audit")
    set_params(root, "auto")
    assert publish(root, "brick").status == "turned down"
    assert promote.history(root, "brick").iloc[-1]["kind"] == "refusal"


@pytest.mark.parametrize(("by", "why"), [("", "x"), ("Ada", "  ")])
def test_a_promotion_is_signed(root: Path, by: str, why: str) -> None:
    with pytest.raises(UserError, match="signed"):
        promote.promote(root, "brick", by, why)


def test_a_version_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="no version 9; there are 1, 2"):
        promote.promote(root, "brick", "Ada", "x", version="9")


@pytest.mark.parametrize("kind", ["promote", "rollback"])
@pytest.mark.parametrize("step", STEPS)
def test_a_failing_step_undoes_the_ones_before(
    root: Path, step: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "rollback":
        promote.promote(root, "brick", "Ada", "newer")
    before = state(root)

    def fails(name: str) -> None:
        if name == step:
            raise OSError("the disk is on fire")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="undone: the disk is on fire"):
        patch.setattr(transaction, "reached", fails)
        getattr(promote, kind)(root, "brick", "Ada", "newer")
    assert state(root) == before
    assert_whole(root)
    last = promote.history(root, "brick").iloc[-1]
    assert last["status"] == "failed" and "on fire" in last["error"]
    getattr(promote, kind)(root, "brick", "Ada", "once more")
    assert_whole(root)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_during_promotion_is_finished_or_undone(root: Path, step: str) -> None:
    before = state(root)
    arguments = ("brick", "Ada", "newer")
    code = killed(root, "flows.transaction", "reached", step, "flows.promote.promote", arguments)
    assert code == -signal.SIGKILL
    settle(root)
    assert_whole(root)
    if step in COMMITTED:
        assert state(root)["aliases"] == {"champion": "2", "previous": "1"}
        assert state(root)["marks"]["staging.brick 2"] == "promoted"
    else:
        assert state(root) == before
        # MLflow does not give a deleted version's number away again.
        number = promote.promote(root, "brick", "Ada", "once more")
        assert state(root)["aliases"] == {"champion": number, "previous": "1"}
        assert_whole(root)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_during_rollback_is_finished_or_undone(root: Path, step: str) -> None:
    promote.promote(root, "brick", "Ada", "newer")
    before = state(root)
    code = killed(root, "flows.transaction", "reached", step, "flows.promote.rollback", ("brick", "Ada", "bad"))
    assert code == -signal.SIGKILL
    settle(root)
    assert_whole(root)
    if step in COMMITTED:
        assert state(root)["aliases"] == {"champion": "1", "previous": "2"}
        assert state(root)["marks"]["staging.brick 2"] == "rolled back"
    else:
        assert state(root) == before


@pytest.mark.parametrize(
    ("module", "attribute", "when"),
    [
        ("flows.adapters.tracking", "log_stages", ""),
        ("flows.adapters.served", "log", ""),
        ("flows.adapters.registry", "register", ""),
        ("flows.judge", "judge", ""),
        ("flows.promote", "carry_out", ""),
        ("flows.transaction", "reached", "copied"),
        ("flows.transaction", "reached", "champion moved"),
    ],
)
def test_a_kill_during_publication_is_made_good_by_the_next_run(
    plant: Fabricator, module: str, attribute: str, when: str
) -> None:
    code = killed(plant.root, module, attribute, when, "flows.publish.publish", ("brick",))
    assert code == -signal.SIGKILL
    done = publish(plant.root, "brick")
    assert (done.version, done.status, done.production_version) == ("1", "promoted", done.champion)
    assert_whole(plant.root)
    client = tracking.connect(plant.root)
    experiment = client.get_experiment_by_name("kintsugi/brick").experiment_id
    assert [r.info.run_id for r in client.search_runs([experiment])] == [done.run_id]
    assert len(registry.versions(client, "staging.brick")) == 1


def beside(root: Path, work: Callable[[], Any], module: Any, step: str) -> tuple[threading.Thread, threading.Event]:
    """Start `work` and wait until it holds the lock at `step`; it goes on when the event is set."""
    inside, go = threading.Event(), threading.Event()
    real = getattr(module, step)

    def slow(*arguments: Any) -> Any:
        inside.set()
        assert go.wait(30)
        return real(*arguments)

    setattr(module, step, slow)
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(30)
    setattr(module, step, real)
    return thread, go


def test_of_two_promotions_at_once_one_wins(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[str] = []
    thread, go = beside(
        root, lambda: outcomes.append(promote.promote(root, "brick", "Ada", "first")), transaction, "reached"
    )
    monkeypatch.setattr(turn, "PATIENCE", 0.2)
    told: list[str] = []
    with pytest.raises(UserError, match=r"of 'brick' is still under way after 0\.2 s; try again"):
        promote.promote(root, "brick", "Grace", "second", tell=told.append)
    assert told == ["a publication or decision of 'brick' is under way; waiting up to 0.2 s for it"]
    monkeypatch.setattr(turn, "PATIENCE", 30.0)
    with pytest.raises(UserError, match=r"production\.brick version 2 serves since; see `kintsugi history brick`"):
        promote.rollback(root, "brick", "Grace", "the first was bad", tell=lambda line: go.set())
    thread.join(30)
    assert outcomes == ["2"]
    assert_whole(root)
    assert "Grace" not in set(promote.history(root, "brick")["by"])


def test_a_promotion_waits_for_a_publication_and_then_promotes_what_was_seen(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    Fabricator(root)(seed=3)
    done: list[Any] = []
    thread, go = beside(root, lambda: done.append(publish(root, "brick")), judge, "judge")  # version 3 is registered
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        go.set()

    assert promote.promote(root, "brick", "Ada", "version 2 looks right", tell=tell) == "2"
    thread.join(30)
    assert len(told) == 1 and (done[0].version, done[0].status) == ("3", "waiting")
    assert promote.history(root, "brick")["staging_version"].tolist() == ["1", "2"]
    assert_whole(root)


def test_an_intent_of_another_machine_is_left_alone_while_it_is_young(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("brick", "Ada", "newer")
    killed(root, "flows.transaction", "reached", "copied", "flows.promote.promote", arguments)
    monkeypatch.setattr(record, "host", lambda: "another-machine")
    with pytest.raises(UserError, match="is under way on"):
        settle(root)
    monkeypatch.setattr(transaction, "FOREIGN_PATIENCE", -transaction.FOREIGN_PATIENCE)
    settle(root)
    assert_whole(root)


def test_a_busy_database_is_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    refusals = iter([1, 2])
    real = MlflowClient.set_registered_model_alias

    def busy(self: MlflowClient, *args: str) -> None:
        if next(refusals, None):
            raise MlflowException("(sqlite3.OperationalError) database is locked")
        real(self, *args)

    monkeypatch.setattr(registry, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", busy)
    assert promote.promote(root, "brick", "Ada", "newer") == "2"
    assert_whole(root)
