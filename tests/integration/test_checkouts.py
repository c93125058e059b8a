"""Two checkouts on one machine with one MLflow: a lock file of the one says nothing to the other."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.errors import UserError
from flows import judge, promote, record, transaction
from flows.adapters import alive, registry, tracking
from flows.publish import publish
from flows.record import ContestedError
from tests.artifacts_fixture import Fabricator, set_params

ASK = "from flows.adapters import alive; print(alive.this(), flush=True); input()"


@pytest.fixture
def checkouts(plant: Fabricator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Version 1 serves, 2 and 3 wait."""
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    publish(plant.root, "brick")
    set_params(plant.root, "manual")
    for seed in (2, 3):
        plant(seed=seed)
        publish(plant.root, "brick")
    unshared = shutil.ignore_patterns("mlflow.db*", "mlartifacts", ".kintsugi")
    other = Path(shutil.copytree(plant.root, tmp_path / "other", ignore=unshared))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{plant.root / 'mlflow.db'}")
    return plant.root, other


class Halted:
    """A promotion of version 2 in a thread, that waits at `step` and then goes on, or fails with `error`."""

    def __init__(self, root: Path, step: str, error: Exception | None, patch: pytest.MonkeyPatch) -> None:
        self.end: object = None
        self._there, self._go = threading.Event(), threading.Event()

        def reached(name: str) -> None:
            if name == step and threading.current_thread() is self._thread:
                self._there.set()
                assert self._go.wait(60)
                if error is not None:
                    raise error

        def work() -> None:
            try:
                self.end = promote.promote(root, "brick", "Ada", "better", version="2")
            except UserError as problem:
                self.end = problem

        patch.setattr(transaction, "reached", reached)
        self._thread = threading.Thread(target=work)
        self._thread.start()
        assert self._there.wait(60), self.end

    def goes_on(self) -> object:
        self._go.set()
        self._thread.join(60)
        return self.end


def test_a_promotion_under_way_in_another_checkout_is_left_alone(
    checkouts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = checkouts
    halted = Halted(one, "copied", None, monkeypatch)
    with pytest.raises(ContestedError, match=r"a promotion of 'brick' is under way on .*; try again later"):
        promote.promote(other, "brick", "Grace", "better still", version="3")
    assert halted.goes_on() == "2"
    history = promote.history(one, "brick")
    assert history[["status", "by"]].to_numpy().tolist()[1:] == [["done", "Ada"]]


@pytest.mark.parametrize("error", [None, OSError("the disk is on fire")])
@pytest.mark.parametrize("step", ["copied", "previous moved"])
def test_one_that_was_taken_for_dead_moves_nothing_any_more(
    checkouts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, step: str, error: Exception | None
) -> None:
    one, other = checkouts
    halted = Halted(one, step, error, monkeypatch)
    monkeypatch.setattr(transaction, "FOREIGN_PATIENCE", -transaction.FOREIGN_PATIENCE)
    number = promote.promote(other, "brick", "Grace", "better still", version="3")
    end = halted.goes_on()
    assert isinstance(end, ContestedError) and "was settled as failed by another command meanwhile" in str(end)
    client = tracking.connect(one)
    assert registry.aliased(client, "production.brick", "champion") == number
    assert registry.aliased(client, "production.brick", "previous") == "1"
    history = promote.history(one, "brick")
    assert history[["status", "by"]].to_numpy().tolist()[1:] == [["failed", "Ada"], ["done", "Grace"]]
    assert record.pending(client, one, "brick") == []


def test_an_intent_is_settled_when_its_process_has_ended_and_not_before(
    checkouts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = checkouts
    client = tracking.connect(one)
    child = subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = child.stdout.readline().strip()
    with monkeypatch.context() as patch:
        patch.setattr(alive, "this", lambda: told)
        patch.setattr(transaction, "transact", lambda client, intent: record.leave(intent))
        promote.promote(one, "brick", "Ada", "better", version="2")
    with pytest.raises(ContestedError, match="is under way"):
        promote.promote(other, "brick", "Grace", "better still", version="3")
    child.kill()
    child.wait()
    assert promote.promote(other, "brick", "Grace", "better still", version="3") == "2"
    assert promote.history(one, "brick")["status"].tolist() == ["done", "failed", "done"]
    assert client.get_model_version("production.brick", "2").tags["promoted.by"] == "Grace"
