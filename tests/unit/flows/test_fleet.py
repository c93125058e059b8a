"""The parts of a fleet that need no servers: what travels, what is merged, who counts as gone."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Completed, Crashed, Failed, Pending, Running

from components.errors import UserError
from components.stage import checkpoint_path
from flows.adapters import versioning
from flows.fleet import carrier, dispatch, locks, store
from flows.fleet.store import Store
from flows.team.checkout import checkout
from tests.toy import Toy


@pytest.fixture
def shared(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), "run-1")


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_checkpoint_travels_from_a_dead_machine_to_the_next(tmp_path: Path, shared: Store) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    name, path = carrier.checkpoint_name("bolt", "train_vqvae"), checkpoint_path(one, "bolt", "train_vqvae")
    with pytest.raises(ConnectionError), carrier.carried(shared, one, "bolt", "train_vqvae", 0.02) as found:
        assert not found
        path.parent.mkdir(parents=True)
        for content in (b"step 10", b"step 20"):
            path.with_suffix(".tmp").write_bytes(content)
            path.with_suffix(".tmp").replace(path)
            eventually(lambda content=content: shared.get(name) == content)
        raise ConnectionError("the power is gone")
    with carrier.carried(shared, other, "bolt", "train_vqvae", 0.02) as found:
        assert found and checkpoint_path(other, "bolt", "train_vqvae").read_bytes() == b"step 20"
    assert shared.get(name) is None  # done, so nobody needs it


def test_signs_of_life_change_while_a_stage_works(tmp_path: Path, shared: Store) -> None:
    beats = set()
    with carrier.living(shared, tmp_path, "bolt", 0.02):
        eventually(lambda: beats.add(shared.get(carrier.alive_name("bolt"))) or len(beats - {None}) > 2)
    assert all(str(tmp_path).encode() in beat for beat in beats - {None})


def test_locks_of_two_machines_become_one_that_dvc_takes_for_fresh(toy: Toy, tmp_path: Path, shared: Store) -> None:
    versioning.add_data(toy.root)
    for category in ("bolt", "tile"):
        versioning.repro_stage(toy.root, f"augment@{category}")
        locks.send(toy.root, shared, category)
    whole = (toy.root / "dvc.lock").read_text()
    (toy.root / "dvc.lock").unlink()
    for category in ("bolt", "tile"):
        assert locks.receive(toy.root, shared, category) == [f"augment@{category}"]
    assert (toy.root / "dvc.lock").read_text() == whole
    assert versioning.stale_stages(toy.root, ["augment@bolt", "augment@tile"]) == {}
    assert locks.receive(toy.root, shared, "nut") == []
    shared.put(locks.part_name("nut"), b"augment@bolt: {}")
    with pytest.raises(UserError, match="holds augment@bolt"):
        locks.receive(toy.root, shared, "nut")


def test_a_store_that_is_away_is_waited_for(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(store.time, "sleep", waited.append)
    answers = iter([ConnectionError("away"), TimeoutError("away"), None])
    real = shared.system.pipe_file

    def flaky(path: str, content: bytes) -> None:
        if (error := next(answers)) is not None:
            raise error
        real(path, content)

    monkeypatch.setattr(shared.system, "pipe_file", flaky)
    shared.put("x", b"content")
    assert shared.get("x") == b"content" and waited == [1.0, 2.0]
    assert sum(store.PAUSES) > 60


class Client:
    """Prefect's, for one flow run."""

    def __init__(self, state: Any) -> None:
        self.state, self.set = state, list[Any]()

    def read_flow_run(self, identity: str) -> Any:
        return SimpleNamespace(state=self.state)

    def set_flow_run_state(self, identity: str, state: Any, force: bool) -> None:
        self.set.append((state, force))


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (Pending(), None),
        (Completed(), ""),
        (Failed(message="exit code 2"), "exit code 2"),
        (Crashed(message="x"), "gone: x"),
    ],
)
def test_a_run_is_what_prefect_says_it_is(shared: Store, state: Any, told: str | None) -> None:
    errand = dispatch.Errand("bolt", SimpleNamespace(id="1"))
    assert dispatch._look(Client(state), shared, errand, 60) == told


def test_a_machine_that_falls_silent_counts_as_gone(shared: Store) -> None:
    client, errand = Client(Running()), dispatch.Errand("bolt", SimpleNamespace(id="1"))
    for beat in (b"1", b"2"):
        shared.put(carrier.alive_name("bolt"), beat)
        errand.heard -= 100  # long ago, but it has been heard of since
        assert dispatch._look(client, shared, errand, 60) is None
    errand.heard -= 100
    assert dispatch._look(client, shared, errand, 60) == "gone: no sign of life for 60 s"
    ((state, force),) = client.set
    assert state.is_crashed() and force


def test_a_checkout_stands_on_the_commit_and_keeps_what_git_ignores(toy: Toy, tmp_path: Path) -> None:
    first = toy.git("rev-parse", "HEAD")
    toy.settings(steps=9)
    toy.git("commit", "-qam", "more steps")
    folder = tmp_path / "machine"
    assert checkout(folder, str(toy.root), first) == first
    (folder / "artifacts").mkdir()
    (folder / "artifacts" / "kept").write_text("output")
    (folder / "settings/standard.yaml").write_text("edited by hand")
    second = toy.git("rev-parse", "HEAD")
    assert checkout(folder, str(toy.root), second) == second
    assert "steps: 9" in (folder / "settings/standard.yaml").read_text()
    assert (folder / "artifacts" / "kept").read_text() == "output"
    with pytest.raises(UserError, match="git checkout failed"):
        checkout(folder, str(toy.root), "0" * 40)
