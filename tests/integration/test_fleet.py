"""Two machines and a collector over one store, with real DVC and git, without servers: benchmarks/fleet.py has those.

The first machine dies inside a training; the second takes the category over, from the checkpoint; the collected
workspace holds what one machine makes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.stage import checkpoint_path
from flows.adapters import versioning
from flows.fleet import carrier, dispatch, work
from flows.fleet.store import Store
from tests.toy import Toy

STAGES = ("augment", "train_vqvae")
# As a training does: a checkpoint from now and then, and none once the outputs stand.
TRAINING = """
checkpoint = pathlib.Path("checkpoints", category, f"{stage}.pt")
if stage == "train_vqvae":
    with open(pathlib.Path(os.environ["SEEN"]), "a") as log:
        log.write(checkpoint.read_text() if checkpoint.exists() else "from the start\\n")
    if os.environ.get("DIES"):
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_text("from step 7\\n")
        time.sleep(1)
        sys.exit(137)
    checkpoint.unlink(missing_ok=True)
"""


class PowerCutError(BaseException):
    """Nothing after it runs: no retry, no word to anybody."""


@pytest.fixture
def fleet(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy with a remote and checkpoints; its flow's parts run without Prefect."""
    graph = (toy.root / "dvc.yaml").read_text()
    toy.write("dvc.yaml", graph[: graph.index("  evaluate:")])  # every command of DVC's takes a second
    program = toy.root / "toy.py"
    program.write_text(program.read_text() + TRAINING)
    toy.write(".gitignore", (toy.root / ".gitignore").read_text() + "/checkpoints/\n")
    monkeypatch.setenv("KINTSUGI_DVC_REMOTE", str(tmp_path / "remote"))
    monkeypatch.setenv("KINTSUGI_FLEET_BEAT", "0.05")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setattr(work, "get_run_logger", lambda: logging.getLogger("fleet"))
    monkeypatch.setattr(work, "_task", once)
    return toy


def once(root: Path, store: Store, category: str, stage: str) -> Callable[[], Any]:
    def run() -> str:
        try:
            return work._stage(root, store, category, stage)
        except versioning.StageError as error:
            assert error.code == 137
            raise PowerCutError from None

    return run


def test_a_category_goes_over_to_another_machine_and_its_outputs_to_the_collector(
    fleet: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "store")
    store = Store(place, "run")
    versioning.add_data(fleet.root)
    fleet.git("add", "-A")
    fleet.git("commit", "-qm", "data")
    commit = fleet.git("rev-parse", "HEAD")
    versioning.push(fleet.root, ["data.dvc"])
    one, other = tmp_path / "one", tmp_path / "other"
    monkeypatch.setenv("DIES", "1")
    with pytest.raises(PowerCutError):
        work._train(one, store, str(fleet.root), commit, "bolt")
    monkeypatch.delenv("DIES")
    assert store.get(carrier.checkpoint_name("bolt", "train_vqvae")) == b"from step 7\n"
    ends = work._train(other, store, str(fleet.root), commit, "bolt")
    assert ends == {"augment": "unchanged", "train_vqvae": "ran"}
    assert (tmp_path / "seen").read_text().splitlines() == ["from the start", "from step 7"]
    assert not checkpoint_path(other, "bolt", "train_vqvae").exists()
    assert store.get(carrier.checkpoint_name("bolt", "train_vqvae")) is None

    assert dispatch.collect(fleet.root, ["bolt"], place, "run") == [f"{stage}@bolt" for stage in STAGES]
    assert versioning.stale_stages(fleet.root, [f"{stage}@bolt" for stage in STAGES]) == {}
    assert fleet.calls() == []  # nothing was made here
    settings = (fleet.root / "settings/standard.yaml").read_text()
    made = {path.parent.name: path.read_text() for path in (fleet.root / "artifacts/bolt").glob("*/made.txt")}
    assert made == {stage: "normal bolt\n" + (settings if stage != "augment" else "") for stage in STAGES}
