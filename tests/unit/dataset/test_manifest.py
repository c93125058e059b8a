"""The manifest tells what is there, and `check` refuses what must not be learned from."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.dataset.manifest import COLUMNS, build_manifest, check, repeats_of
from components.errors import UserError
from tests.unit.dataset.pictures import SETTINGS, category, encoded, picture, write


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        check(build_manifest(folder), SETTINGS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_row_for_each_image(tmp_path: Path) -> None:
    manifest = build_manifest(category(tmp_path))
    assert tuple(manifest.columns) == COLUMNS
    assert manifest.groupby(["part", "defect", "label"]).size().to_dict() == {
        ("train", "good", 0): 40, ("test", "good", 0): 3, ("test", "scratch", 1): 3,
    }  # fmt: skip
    check(manifest, SETTINGS)


def test_the_columns_measure_the_file(tmp_path: Path) -> None:
    image = (picture(channels=1) // 2).astype(np.uint16) * 257
    path = write(category(tmp_path) / "test" / "scratch" / "ünder score 画.png", image)
    manifest = build_manifest(tmp_path).set_index("path")
    row = manifest.loc["test/scratch/ünder score 画.png"]
    assert (row.width, row.height, row.channels, row.bit_depth, row["mask"], row.error) == (48, 40, 1, 16, "", "")
    assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert row.bytes == path.stat().st_size
    assert math.isclose(row.brightness, image.mean() / 65535, rel_tol=1e-9)
    flat = write(tmp_path / "test" / "scratch" / "flat.png", np.full((40, 48, 3), 51, np.uint8))
    flat_row = build_manifest(tmp_path).set_index("path").loc[flat.relative_to(tmp_path).as_posix()]
    assert (flat_row.brightness, flat_row.sharpness) == (pytest.approx(0.2), 0)
    assert row.sharpness > 0
    assert manifest.loc["test/scratch/001.png", "mask"] == "ground_truth/scratch/001_mask.png"


def test_it_survives_a_csv(tmp_path: Path) -> None:
    manifest = build_manifest(category(tmp_path / "c"))
    manifest.to_csv(tmp_path / "m.csv", index=False)
    back = pd.read_csv(tmp_path / "m.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(back, manifest, check_dtype=False)


def test_clutter_is_not_an_image(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", ".hidden.png"):
        (category(tmp_path) / "train" / "good" / name).write_bytes(b"clutter")
    assert len(build_manifest(tmp_path)) == 46


def test_an_absent_category_has_no_rows(tmp_path: Path) -> None:
    manifest = build_manifest(tmp_path / "nothing")
    assert len(manifest) == 0
    assert tuple(manifest.columns) == COLUMNS
    with pytest.raises(UserError, match="only 0 normal images"):
        check(manifest, SETTINGS)


def test_bad_files_are_named_and_counted(tmp_path: Path) -> None:
    good = category(tmp_path) / "train" / "good"
    (good / "empty.png").touch()
    (good / "cut.jpg").write_bytes(encoded(picture(), ".jpg")[:900])
    (good / "notes.txt").write_text("notes")
    (good / "typed.png").write_text("notes")
    write(good / "large.png", picture(height=300, width=400))
    manifest = build_manifest(tmp_path, max_megapixels=0.1)
    bad = manifest[manifest.error != ""].set_index("path").error
    for name, why in {
        "empty.png": "empty", "cut.jpg": "truncated", "notes.txt": "not an image", "typed.png": "not an image",
        "large.png": "megapixels",
    }.items():  # fmt: skip
        assert why in bad[f"train/good/{name}"]
    assert len(bad) == 5
    with pytest.raises(UserError, match=r"5 files cannot be used: .*cut\.jpg.*empty\.png.*; and 2 more"):
        check(manifest, SETTINGS)


def test_too_few(tmp_path: Path) -> None:
    assert "only 19 normal images; at least 20" in refused(category(tmp_path, normals=19))


def test_the_same_bytes_in_train_and_test(tmp_path: Path) -> None:
    data = (category(tmp_path) / "train" / "good" / "007.png").read_bytes()
    (tmp_path / "test" / "good" / "again.png").write_bytes(data)
    message = refused(tmp_path)
    assert "train/good/007.png and test/good/again.png hold the same bytes" in message


def test_the_same_bytes_twice_in_train_are_allowed_and_said(tmp_path: Path) -> None:
    data = (category(tmp_path) / "train" / "good" / "007.png").read_bytes()
    (tmp_path / "train" / "good" / "again.png").write_bytes(data)
    manifest = build_manifest(tmp_path)
    check(manifest, SETTINGS)
    assert repeats_of(manifest) == [("train/good/007.png", "train/good/again.png")]


def test_a_mask_with_no_image(tmp_path: Path) -> None:
    (category(tmp_path) / "test" / "scratch" / "001.png").unlink()
    message = refused(tmp_path)
    assert "001_mask.png has no image" in message


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    write(category(tmp_path) / "ground_truth" / "scratch" / "001_mask.png", picture(height=41, channels=1))
    assert "48x41 but its image is 48x40" in refused(tmp_path)


def test_a_mask_that_two_images_share(tmp_path: Path) -> None:
    write(category(tmp_path) / "test" / "scratch" / "001.bmp", picture(5000))
    assert "share the mask" in refused(tmp_path)


def test_no_mask_and_an_empty_mask_are_allowed(tmp_path: Path) -> None:
    (category(tmp_path) / "ground_truth" / "scratch" / "000_mask.png").unlink()
    write(tmp_path / "ground_truth" / "scratch" / "001_mask.png", np.zeros((40, 48, 1), np.uint8))
    check(build_manifest(tmp_path), SETTINGS)


def test_only_normal_images_are_enough(tmp_path: Path) -> None:
    check(build_manifest(category(tmp_path, normals=60, good=0, defects=0)), SETTINGS)
