"""`kintsugi choose`: all codes trained, the best on hard negatives named, nothing lost on the way."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from components import settings
from components.__main__ import MODULES
from components.errors import UserError
from components.features import backbone
from flows import latent
from flows.adapters import versioning
from tests import tiny
from tests.unit.test_features import published

SMALL = {"vqvae": {"channels": 8, "residual_blocks": 1, "steps": 4}, "prior": {"steps": 4}}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages run in this process, where torch is loaded once, and are noted; other tests run them through DVC."""
    ran: list[str] = []

    def here(root: Path, name: str, on_line: object = None) -> None:
        step, _, category = name.partition("@")
        importlib.import_module(MODULES[step]).run(root, settings.load(root, category))
        ran.append(step)

    monkeypatch.setattr(versioning, "repro_stage", here)
    return ran


def test_the_best_codes_are_named_and_no_further_stage_runs(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny.make(tmp_path / "plant", features=SMALL)
    params = root / "params.yaml"
    before = params.read_bytes()
    monkeypatch.setenv(backbone.WEIGHTS, str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"none\.pth"):
        latent.choose(root, "brick")
    assert params.read_bytes() == before, "a refusal leaves the settings as they were"

    torch.save(published(), tmp_path / "weights.pth")
    monkeypatch.setenv(backbone.WEIGHTS, str(tmp_path / "weights.pth"))
    chosen = latent.choose(root, "brick")
    assert set(chosen.table.codes) == set(latent.CONTENDERS) and chosen.before == "pixels"
    assert chosen.table["mean"].is_monotonic_decreasing and chosen.codes == chosen.table.codes[0]
    named = settings.load(root, "brick").vqvae
    assert (named.latent, named.allocation) == (chosen.latent, chosen.allocation)
    assert latent.in_force(named) == chosen.codes
    kinds = [column for column in chosen.table if str(column).endswith(("_image", "_pixel"))]
    assert chosen.table["mean"].to_numpy() == pytest.approx(chosen.table[kinds].mean(axis=1).to_numpy())

    assert not {"package", "evaluate"} & set(trained), "no test image is looked at"

    with pytest.raises(UserError, match="did you mean 'patches'"):
        latent.choose(root, "brick", ["patch"])
