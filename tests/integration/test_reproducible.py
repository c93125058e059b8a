"""The same seed, data and machine give the same codes, weights, calibration and metrics; another seed does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from components import stage
from components.__main__ import main
from tests import tiny


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The stages take every core; the tests after this one do not."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def chain(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> dict[str, str]:
    """Path -> hash of every output of every stage, run from nothing, without what a clock decided."""
    tiny.make(root)
    tiny.edit(root / "params.yaml", lambda params: params.update(seed=seed))
    monkeypatch.chdir(root)
    torch.manual_seed(int.from_bytes(root.name.encode()))  # what ran before in the process must not matter
    assert [main([name, "brick"]) for name in stage.STAGES] == [0] * len(stage.STAGES)
    return tiny.results(root / "artifacts/brick")


def codes(root: Path) -> np.ndarray:
    with np.load(root / "artifacts/brick/extract_codes/codes.npz") as stored:
        return np.concatenate([stored[part] for part in ("train", "val", "calib")])


def metrics(root: Path) -> dict[str, object]:
    found = stage.read_json(root / "artifacts/brick/evaluate/metrics.json")
    return {name: value for name, value in found.items() if name not in tiny.TIMED}


def test_two_runs_of_one_seed_are_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    first, second = chain(one, monkeypatch, 3), chain(two, monkeypatch, 3)
    assert np.array_equal(codes(one), codes(two))
    assert metrics(one) == metrics(two) and {"image_auroc", "pixel_auroc", "eta", "image_threshold"} <= set(
        metrics(one)
    )
    assert [path for path in first if first[path] != second.get(path)] == [] and first.keys() == second.keys()
    assert {path.split("/")[0] for path in first} == set(stage.STAGES)
    chain(other, monkeypatch, 4)
    assert not np.array_equal(codes(one), codes(other)), "so it is the seed that decides"
    assert metrics(one) != metrics(other)
