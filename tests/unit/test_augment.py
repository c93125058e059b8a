"""Augmentation: policies, determinism, and depth and channels that survive."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from components import augment, stage
from components.arrays import unit
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
    white = int(np.iinfo(dtype).max)
    out = augment.augmented(picture(channels, dtype), config, 32, np.random.default_rng(1), white)
    assert out.shape == (32, 32, channels) and out.dtype == dtype


def test_a_rotation_free_object_is_one_of_its_eight_turns_and_flips():
    config = dataclasses.replace(PLAIN, policy="rotation_free")
    image = picture()[:40, :40]
    turns = [np.rot90(image, k) for k in range(4)]
    allowed = turns + [t[:, ::-1] for t in turns]
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        out = augment.augmented(image, config, 40, rng, 255)
        matches = [i for i, turn in enumerate(allowed) if np.array_equal(turn, out)]
        assert matches
        seen.add(matches[0])
    assert len(seen) == 8


def test_an_object_without_degrees_stays_as_it_is():
    config = dataclasses.replace(PLAIN, degrees=0.0)
    image = picture()[:40, :40]
    assert np.array_equal(augment.augmented(image, config, 40, np.random.default_rng(0), 255), image)


def small():
    settings = load(find_root(REPO), "brick")
    return dataclasses.replace(
        settings,
        dataset=dataclasses.replace(settings.dataset, size=32, val_fraction=0.2, calib_fraction=0.3),
        augment=dataclasses.replace(settings.augment, images=40),
    )


def fill(root: Path, count: int, channels: int, dtype: type, bits: int, part: str = "train/good") -> None:
    good = root / "data" / "brick" / part
    good.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    for number in range(count):
        image = rng.integers(0, 2**bits, (50, 40, channels)).astype(dtype)
        cv2.imwrite(str(good / f"{number:02d}.png"), image)


@pytest.mark.parametrize(
    ("channels", "dtype", "bits", "white"),
    [(1, np.uint8, 8, 255), (3, np.uint8, 8, 255), (1, np.uint16, 12, 4095), (3, np.uint16, 16, 65535)],
)
def test_the_stage_writes_every_part_in_the_images_own_depth(tmp_path, channels, dtype, bits, white):
    fill(tmp_path, 40, channels, dtype, bits)
    augment.run(tmp_path, small())
    out = stage.folder(tmp_path, "brick", "augment")
    summary = stage.read_json(out / "summary.json")
    assert (summary["white"], summary["channels"]) == (white, channels)
    parts = {part: np.load(out / f"images-{part}.npy", mmap_mode="r") for part in ("train", "plain", "val", "calib")}
    assert all(a.dtype == dtype and a.shape[1:] == (32, 32, channels) for a in parts.values())
    assert all(a.reshape(len(a), -1).max(1).min() > 0 for a in parts.values())  # every place was filled
    first = {part: a.copy() for part, a in parts.items()}
    augment.run(tmp_path, small())
    assert all(np.array_equal(np.load(out / f"images-{part}.npy"), a) for part, a in first.items())


def test_mixed_depths_meet_in_the_deeper_one():
    small = np.full((2, 2, 1), 200, np.uint8)
    for white in (1023, 4095, 65535):
        deep = augment.to_depth(small, white)
        assert deep.dtype == np.uint16 and np.allclose(
            unit(deep, 1, white, 2), unit(small, 1, white, 2), atol=1 / white
        )
    assert (augment.to_depth(small, 255) == small).all()


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_lamp_that_ages_does_so_on_the_cameras_own_scale(bits):
    white = 2**bits - 1
    config = dataclasses.replace(PLAIN, policy="rotation_free", brightness=0.05, contrast=0.1)
    image = np.full((32, 32, 1), round(0.4 * white), np.uint16)
    rng = np.random.default_rng(0)
    means = [augment.augmented(image, config, 32, rng, white).mean() / white for _ in range(40)]
    assert max(abs(mean - 0.4) for mean in means) <= 0.051 and max(means) - min(means) > 0.05


def rows(*depths_and_bits):
    return pd.DataFrame(depths_and_bits, columns=["bit_depth", "bits"])


def test_full_white_is_what_the_deep_images_use_and_tells_them_from_eight_bits():
    assert augment.white_of(rows((8, 8), (8, 8))) == 255
    assert augment.white_of(rows((16, 12), (16, 10), (8, 8))) == 4095
    assert augment.white_of(rows((16, 8), (16, 8))) == 1023, "8-bit values in 16-bit files are inspected as such"


def test_what_has_no_test_image_keeps_its_validation_images_out_of_the_statistics(tmp_path):
    fill(tmp_path, 60, 1, np.uint8, 8)
    for learned in (["train"], ["train", "val"]):
        augment.run(tmp_path, small())
        out = stage.folder(tmp_path, "brick", "augment")
        parts = pd.read_csv(out / "manifest.csv", keep_default_na=False).part
        assert stage.read_json(out / "summary.json")["images_plain"] == int(parts.isin(learned).sum())
        fill(tmp_path, 3, 1, np.uint8, 8, "test/good")  # and now it has test images
