"""Augmentation: policies, determinism, and depth and channels that survive."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from components import augment, stage
from components.settings import Augment, find_root, load

REPO = Path(__file__).resolve().parents[2]
PLAIN = Augment("object", 8, 10.0, 0.8, 0.0, 0.0)


def picture(channels=3, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (40, 60, channels)).astype(dtype)


@pytest.mark.parametrize("policy", ["object", "rotation_free", "texture"])
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16)])
def test_size_channels_and_depth_are_kept(policy, channels, dtype):
    config = dataclasses.replace(PLAIN, policy=policy, brightness=0.05, contrast=0.1)
    out = augment.augmented(picture(channels, dtype), config, 32, np.random.default_rng(1))
    assert out.shape == (32, 32, channels) and out.dtype == dtype


def test_a_rotation_free_object_is_one_of_its_eight_turns_and_flips():
    config = dataclasses.replace(PLAIN, policy="rotation_free")
    image = picture()[:40, :40]
    turns = [np.rot90(image, k) for k in range(4)]
    allowed = turns + [t[:, ::-1] for t in turns]
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        out = augment.augmented(image, config, 40, rng)
        matches = [i for i, turn in enumerate(allowed) if np.array_equal(turn, out)]
        assert matches
        seen.add(matches[0])
    assert len(seen) == 8


def test_an_object_without_degrees_stays_as_it_is():
    config = dataclasses.replace(PLAIN, degrees=0.0)
    image = picture()[:40, :40]
    assert np.array_equal(augment.augmented(image, config, 40, np.random.default_rng(0)), image)


def fill(root: Path, count: int, channels: int, dtype: type, bits: int) -> None:
    good = root / "data" / "brick" / "train" / "good"
    good.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(0, 2**bits, (50, 40, channels)).astype(dtype)
        cv2.imwrite(str(good / f"{number:02d}.png"), image)


@pytest.mark.parametrize(
    ("channels", "dtype", "bits", "white"),
    [(1, np.uint8, 8, 255), (3, np.uint8, 8, 255), (1, np.uint16, 12, 4095), (3, np.uint16, 16, 65535)],
)
def test_the_stage_writes_every_part_in_the_images_own_depth(tmp_path, channels, dtype, bits, white):
    settings = load(find_root(REPO), "brick")
    settings = dataclasses.replace(
        settings,
        dataset=dataclasses.replace(settings.dataset, size=32, val_fraction=0.2, calib_fraction=0.3),
        augment=dataclasses.replace(settings.augment, images=40),
    )
    fill(tmp_path, 40, channels, dtype, bits)
    augment.run(tmp_path, settings)
    out = stage.folder(tmp_path, "brick", "augment")
    summary = stage.read_json(out / "summary.json")
    assert (summary["white"], summary["channels"]) == (white, channels)
    parts = {part: np.load(out / f"images-{part}.npy", mmap_mode="r") for part in ("train", "plain", "val", "calib")}
    assert all(a.dtype == dtype and a.shape[1:] == (32, 32, channels) for a in parts.values())
    assert all(a.reshape(len(a), -1).max(1).min() > 0 for a in parts.values())  # every place was filled
    first = {part: a.copy() for part, a in parts.items()}
    augment.run(tmp_path, settings)
    assert all(np.array_equal(np.load(out / f"images-{part}.npy"), a) for part, a in first.items())


def test_mixed_depths_meet_in_the_deeper_one():
    small = np.full((2, 2, 1), 200, np.uint8)
    deep = augment.to_depth(small, deep=True)
    assert deep.dtype == np.uint16 and (deep == 200 * 257).all()
    assert (augment.to_depth(deep, deep=False) == small).all()
