"""The built-in category: the same on every run, and no test pixel was ever seen in training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from components.dataset import sample
from components.dataset.importers import import_sample
from components.dataset.manifest import build_manifest, check
from components.dataset.split import assign_parts
from tests.unit.dataset.pictures import SETTINGS


@pytest.fixture(scope="module")
def brick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    sample.make_sample(folder)
    return folder


def test_what_it_holds(brick: Path, tmp_path: Path) -> None:
    report = import_sample(tmp_path / "data", SETTINGS)
    assert report.counts == {
        "train/good": sample.TRAIN, "test/good": sample.GOOD,
        "test/crack": sample.PER_DEFECT, "test/hole": sample.PER_DEFECT, "test/stain": sample.PER_DEFECT,
    }  # fmt: skip
    manifest = build_manifest(tmp_path / "data" / "brick")
    check(manifest, SETTINGS)
    assert set(assign_parts(manifest, 0.1, 0.15)["part"]) == {"train", "val", "calib", "test"}
    assert manifest["sha256"].is_unique
    assert (manifest[["width", "height", "channels"]] == [256, 256, 1]).all().all()
    assert (manifest.query("label == 1")["mask"] != "").all()


def test_a_seed_decides_every_byte(brick: Path, tmp_path: Path) -> None:
    sample.make_sample(tmp_path / "again")
    sample.make_sample(tmp_path / "other", seed=1)
    for path in brick.rglob("*.png"):
        assert (tmp_path / "again" / path.relative_to(brick)).read_bytes() == path.read_bytes()
    first = Path("train/good/000.png")
    assert (tmp_path / "other" / first).read_bytes() != (brick / first).read_bytes()


def test_train_and_test_share_no_pixel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every crop is taken from a view of the photograph; those of train and test are disjoint in memory."""
    regions: list[np.ndarray] = []
    parts: list[str] = []
    crop = sample._crop

    def recording(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        regions.append(region)
        return crop(region, rng)

    monkeypatch.setattr(sample, "_crop", recording)
    monkeypatch.setattr(sample, "_write", lambda path, image: parts.append(path.parts[-3]))
    monkeypatch.setattr(sample, "DEFECTS", {"none": lambda image, rng: (image, image > 0)})
    sample.make_sample(tmp_path / "brick")
    parts = [part for part in parts if part != "ground_truth"]
    seen = {part: {id(r): r for r, p in zip(regions, parts, strict=True) if p == part} for part in parts}
    assert set(seen) == {"train", "test"}
    for train in seen["train"].values():
        for test in seen["test"].values():
            assert train.base is test.base, "both are views, so that sharing memory means sharing pixels"
            assert not np.shares_memory(train, test)


@pytest.mark.parametrize("name", list(sample.DEFECTS))
def test_a_mask_covers_what_was_painted(name: str) -> None:
    clean = np.full((256, 256), 111.0, np.float32)
    for seed in range(20):
        painted, mask = sample.DEFECTS[name](clean, np.random.default_rng(seed))
        changed = np.abs(painted - clean)
        assert 60 <= mask.sum() <= 0.2 * mask.size
        assert changed[~mask].max() <= 6, "nothing that one could see lies outside of the mask"
        assert changed[mask].mean() > 15
        if name != "stain":
            assert changed[~mask].max() == 0


def test_defects_stand_out_in_the_files(brick: Path) -> None:
    for path in (brick / "ground_truth").rglob("*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) == {0, 255}
