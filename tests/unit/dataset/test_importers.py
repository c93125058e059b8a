"""Each importer on a small source of its layout, and the traps of the real ones."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.dataset import importers
from components.dataset.importers import import_btad, import_folder, import_magnetic_tile, import_mvtec
from components.dataset.manifest import build_manifest
from components.errors import UserError
from tests.unit.dataset.pictures import SETTINGS, category, mask, nothing_changed, photos, picture, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "data"


def test_mvtec(tmp_path: Path, data: Path) -> None:
    source = category(tmp_path / "mvtec" / "bottle")
    report = import_mvtec(tmp_path / "mvtec", data, "bottle", SETTINGS)
    assert (report.category, report.policy, report.warnings) == ("bottle", "rotation_free", ())
    assert report.counts == {"train/good": 40, "test/good": 3, "test/scratch": 3}
    for path in source.rglob("*.png"):
        assert (data / "bottle" / path.relative_to(source)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "policy"), [("bottle", "rotation_free"), ("grid", "texture"), ("cable", "object"), ("mine", "object")]
)
def test_policies_are_guessed_by_name_and_overridden(tmp_path: Path, data: Path, name: str, policy: str) -> None:
    source = category(tmp_path / "s")
    assert import_mvtec(source, data, name, SETTINGS).policy == policy
    assert import_mvtec(source, data, name, SETTINGS, policy="texture", replace=True).policy == "texture"
    with pytest.raises(UserError, match="no augmentation policy; use one of object"):
        import_mvtec(source, data, name, SETTINGS, policy="wild", replace=True)


def test_mvtec_names_what_is_there(tmp_path: Path, data: Path) -> None:
    for name in ("bottle", "grid"):
        category(tmp_path / "mvtec" / name)
    with pytest.raises(UserError, match=r"no train/good for 'botle'; it holds bottle, grid"):
        import_mvtec(tmp_path / "mvtec", data, "botle", SETTINGS)
    with pytest.raises(UserError, match="does not exist"):
        import_mvtec(tmp_path / "nowhere", data, "bottle", SETTINGS)
    assert nothing_changed(data)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_of_one_folder(tmp_path: Path, data: Path, kind: str) -> None:
    source = category(tmp_path / "mvtec_ad" / "bottle")
    archive = tmp_path / f"download.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in source.rglob("*.png"):
                opened.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(tmp_path / "mvtec_ad", "mvtec_ad")
    assert import_mvtec(archive, data, "bottle", SETTINGS).counts["train/good"] == 40


def test_an_unsafe_archive_changes_nothing(tmp_path: Path, data: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("train/good/../../../../evil.png", b"x")
    with pytest.raises(UserError, match=r"evil\.png.*outside of its folder"):
        import_mvtec(tmp_path / "evil.zip", data, "bottle", SETTINGS)
    assert nothing_changed(data)
    assert not list(tmp_path.rglob("evil.png"))


def test_a_file_that_is_no_archive(tmp_path: Path, data: Path) -> None:
    (tmp_path / "notes.zip").write_text("notes")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        import_folder(tmp_path / "notes.zip", data, "nut", SETTINGS)


def test_btad(tmp_path: Path, data: Path) -> None:
    source = tmp_path / "BTech" / "01"
    photos(source / "train" / "ok", 40, suffix=".bmp")
    photos(source / "test" / "ok", 3, 40, ".bmp")
    photos(source / "test" / "ko", 2, 50, ".bmp")
    mask(source / "ground_truth" / "ko" / "photo 50 é.png")
    mask(source / "ground_truth" / "ko" / "photo 51 é.bmp")
    report = import_btad(tmp_path / "BTech", data, "01", SETTINGS)
    assert report.counts == {"train/good": 40, "test/good": 3, "test/ko": 2}
    defects = build_manifest(data / "01").query("label == 1")
    assert list(defects["mask"]) == ["ground_truth/ko/photo 50 é_mask.png", "ground_truth/ko/photo 51 é_mask.bmp"]
    assert import_btad(source, data, "btad_01", SETTINGS).counts == report.counts


def tiles(folder: Path, free: int = 60) -> Path:
    for i in range(free):
        write(folder / "MT_Free" / "Imgs" / f"free{i}.jpg", picture(i, channels=1))
        write(folder / "MT_Free" / "Imgs" / f"free{i}.png", picture(i, 3, 3, 1))  # ignored, whatever it is
    for i, kind in enumerate(("Break", "Uneven")):
        write(folder / f"MT_{kind}" / "Imgs" / "one.jpg", picture(1000 + i, channels=1))
        levels = np.array([[0, 100, 127, 128, 200, 255] * 8] * 40, np.uint8)[..., None]
        write(folder / f"MT_{kind}" / "Imgs" / "one.png", levels if kind == "Break" else levels * 0)
    return folder


def test_magnetic_tiles_by_the_list_beside_them(tmp_path: Path, data: Path) -> None:
    source = tiles(tmp_path / "mt")
    (source / "train_filenames.txt").write_text("".join(f"free{i}.jpg\n" for i in range(50)))
    report = import_magnetic_tile(source, data, "magnetic_tile", SETTINGS)
    assert report.counts == {"train/good": 50, "test/good": 10, "test/break": 1, "test/uneven": 1}
    assert report.warnings == ("1 masks are empty and count at image level only: one.jpg",)
    truth = cv2.imread(str(data / "magnetic_tile/ground_truth/break/one_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(truth, np.array([[0, 0, 0, 255, 255, 255] * 8] * 40, np.uint8))
    original = source / "MT_Free" / "Imgs" / "free7.jpg"
    assert (data / "magnetic_tile/train/good/free7.jpg").read_bytes() == original.read_bytes()
    assert not list((data / "magnetic_tile" / "train").rglob("*.png"))


def test_magnetic_tiles_by_a_given_list_and_by_hash(tmp_path: Path, data: Path) -> None:
    source = tiles(tmp_path / "mt", free=120)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"MT_Free/Imgs/free{i}.jpg" for i in range(100)))
    report = import_magnetic_tile(source, data, "listed", SETTINGS, train_list=names)
    assert (report.counts["train/good"], report.counts["test/good"]) == (100, 20)
    report = import_magnetic_tile(source, data, "hashed", SETTINGS)
    assert 84 <= report.counts["train/good"] <= 108
    assert "no train_filenames.txt" in report.warnings[0]
    names.write_text("free1.jpg\nfree1000.jpg")
    with pytest.raises(UserError, match=r"names 1 images that MT_Free lacks: free1000\.jpg"):
        import_magnetic_tile(source, data, "wrong", SETTINGS, train_list=names)
    with pytest.raises(UserError, match="cannot be read as a list"):
        import_magnetic_tile(source, data, "wrong", SETTINGS, train_list=tmp_path / "nowhere.txt")


@pytest.mark.shared
def test_the_real_bottle(shared: Path, data: Path) -> None:
    report = import_mvtec(shared / "data" / "mvtec_ad", data, "bottle", SETTINGS)
    assert report.counts == {
        "train/good": 209, "test/broken_large": 20, "test/broken_small": 22, "test/contamination": 21,
        "test/good": 20,
    }  # fmt: skip
    manifest = build_manifest(data / "bottle")
    assert (manifest.query("label == 1")["mask"] != "").all()


@pytest.mark.shared
def test_the_real_magnetic_tiles(shared: Path, data: Path) -> None:
    report = import_magnetic_tile(shared / "data" / "magnetic_tile", data, "magnetic_tile", SETTINGS)
    assert report.counts == {
        "train/good": 761, "test/blowhole": 115, "test/break": 85, "test/crack": 57, "test/fray": 32,
        "test/good": 191, "test/uneven": 103,
    }  # fmt: skip
    assert "4 masks are empty" in report.warnings[0]
    for stem in ("exp3_num_45042", "exp4_num_124690", "exp4_num_352527", "exp4_num_45057"):
        assert f"{stem}.jpg" in report.warnings[0]
    masks = sorted((data / "magnetic_tile" / "ground_truth").rglob("*.png"))
    assert len(masks) == 392
    levels = {int(v) for m in masks for v in np.unique(cv2.imread(str(m), cv2.IMREAD_UNCHANGED))}
    assert levels == {0, 255}
    assert importers.count_images(data / "magnetic_tile") == report.counts
