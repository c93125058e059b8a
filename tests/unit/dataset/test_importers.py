"""Each importer on a small source of its layout, and the traps of the real ones."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from components.dataset import importers
from components.dataset.importers import import_btad, import_folder, import_magnetic_tile, import_mvtec
from components.dataset.manifest import build_manifest
from components.errors import UserError
from tests.unit.dataset.pictures import SETTINGS, category, picture, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "data"


def photos(folder: Path, number: int = 60, first: int = 0, suffix: str = ".png") -> Path:
    for i in range(first, first + number):
        write(folder / f"photo {i:02d} é{suffix}", picture(i))
    return folder


def mask(path: Path, height: int = 40, width: int = 48) -> Path:
    image = np.zeros((height, width, 1), np.uint8)
    image[3:9, 4:12] = 255
    return write(path, image)


def nothing_changed(data: Path) -> bool:
    return not data.exists() or not any(data.iterdir())


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


def test_a_folder_of_normal_photographs(tmp_path: Path, data: Path) -> None:
    source = photos(tmp_path / "line 7")
    (source / "notes.txt").write_text("shot on Monday")
    (source / ".DS_Store").touch()
    report = import_folder(source, data, "nut", SETTINGS)
    assert report.counts == {"train/good": 60}
    assert report.warnings == ("1 left out, not images: notes.txt",)
    assert len(build_manifest(data / "nut").query("label == 0 and error == ''")) == 60


def test_a_folder_with_defects_and_masks(tmp_path: Path, data: Path) -> None:
    defects, masks = tmp_path / "bad", tmp_path / "masks"
    photos(defects / "crack", 2, 70)
    photos(defects / "dent" / "monday", 1, 80)
    write(defects / "dent" / "tuesday" / "photo 80 é.png", picture(81))
    photos(defects, 1, 90)
    photos(defects / "good", 2, 95)
    mask(masks / "crack" / "photo 70 é_mask.png")
    mask(masks / "photo 71 é.png")
    mask(masks / "photo 90 é.png")
    report = import_folder(photos(tmp_path / "ok"), data, "nut", SETTINGS, defects=defects, masks=masks)
    assert report.counts == {
        "train/good": 60, "test/crack": 2, "test/defect": 1, "test/dent": 2, "test/good": 2,
    }  # fmt: skip
    assert report.warnings == ("2 defective images have no mask: photo 80 é.png, photo 80 é.png",)
    manifest = build_manifest(data / "nut").set_index("path")
    assert manifest.loc["test/defect/photo 90 é.png", "mask"] == "ground_truth/defect/photo 90 é_mask.png"
    assert "test/dent/photo 80 é-2.png" in manifest.index, "two files of one name are both kept"
    assert (manifest.loc[["test/good/photo 95 é.png", "test/good/photo 96 é.png"], "label"] == 0).all()


def test_masks_that_fit_no_image_two_images_or_one_twice(tmp_path: Path, data: Path) -> None:
    ok, bad = photos(tmp_path / "ok"), photos(tmp_path / "bad", 2, 70)

    def message(masks: Path) -> str:
        with pytest.raises(UserError) as caught:
            import_folder(ok, data, "nut", SETTINGS, defects=bad, masks=masks)
        assert nothing_changed(data)
        return str(caught.value)

    assert "has no image" in message(mask(tmp_path / "m1" / "other.png").parent)
    mask(tmp_path / "m2" / "photo 70 é.png")
    assert "are both for" in message(mask(tmp_path / "m2" / "photo 70 é_mask.png").parent)
    assert "48x41 but its image is 48x40" in message(mask(tmp_path / "m3" / "photo 70 é.png", height=41).parent)
    write(bad / "photo 70 é.jpg", picture(700))
    assert "give the images different names" in message(mask(tmp_path / "m4" / "photo 70 é.png").parent)
    with pytest.raises(UserError, match="masks without defective images"):
        import_folder(ok, data, "nut", SETTINGS, masks=tmp_path / "m1")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda f: (f / "empty.png").touch(), r"train/good/empty\.png is empty"),
        (lambda f: (f / "cut.png").write_bytes((f / "photo 00 é.png").read_bytes()[:999]), r"cut\.png is truncated"),
        (lambda f: (f / "text.png").write_text("text"), r"text\.png is not an image"),
        (lambda f: write(f / "large.png", picture(height=1100, width=1000)), r"above the limit of 1 megapixels"),
        (lambda f: [p.unlink() for p in sorted(f.iterdir())[19:]], "only 19 normal images"),
    ],
)
def test_bad_input_gets_one_line_and_changes_nothing(tmp_path: Path, data: Path, spoil, line: str) -> None:  # type: ignore[no-untyped-def]
    import_folder(photos(tmp_path / "old"), data, "nut", SETTINGS)
    before = {p: p.read_bytes() for p in data.rglob("*") if p.is_file()}
    spoil(photos(tmp_path / "new"))
    limited = SETTINGS.__class__(256, 0.1, 0.15, 20, 1)
    with pytest.raises(UserError, match=line) as caught:
        import_folder(tmp_path / "new", data, "nut", limited, replace=True)
    assert "\n" not in str(caught.value)
    assert ".kintsugi" not in str(caught.value), "the scratch folder is nothing to the reader"
    assert {p: p.read_bytes() for p in data.rglob("*") if p.is_file()} == before


def test_the_same_bytes_in_train_and_test(tmp_path: Path, data: Path) -> None:
    ok, bad = photos(tmp_path / "ok"), photos(tmp_path / "bad", 1, 7)
    with pytest.raises(UserError, match=r"train/good/photo 07 é\.png and test/defect/photo 07 é\.png hold the same"):
        import_folder(ok, data, "nut", SETTINGS, defects=bad)


def test_copies_within_train_are_said(tmp_path: Path, data: Path) -> None:
    source = photos(tmp_path / "ok")
    (source / "z.png").write_bytes((source / "photo 07 é.png").read_bytes())
    warnings = import_folder(source, data, "nut", SETTINGS).warnings
    assert warnings == (
        "1 training images repeat another's bytes, e.g. train/good/photo 07 é.png = train/good/z.png",
    )


def test_a_validation_that_refuses_changes_nothing(tmp_path: Path, data: Path) -> None:
    seen: list[pd.DataFrame] = []

    def validate(manifest: pd.DataFrame) -> None:
        seen.append(manifest)
        raise UserError("no")

    with pytest.raises(UserError, match=r"^no$"):
        import_folder(photos(tmp_path / "ok"), data, "nut", SETTINGS, validate=validate)
    assert len(seen[0]) == 60
    assert nothing_changed(data)


def test_a_disk_that_fills_up_half_way(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import shutil

    copy, done = shutil.copyfile, 0

    def filling(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done > 30:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", filling)
    with pytest.raises(UserError, match=r"disk .* is full"):
        import_folder(photos(tmp_path / "ok"), data, "nut", SETTINGS)
    assert nothing_changed(data)
    assert [p.name for p in (data.parent / ".kintsugi").iterdir()] == ["import.lock"]


def test_sizes_depths_and_channels_may_mix(tmp_path: Path, data: Path) -> None:
    source = photos(tmp_path / "ok")
    write(source / "grey16.png", picture(900, 50, 70, 1).astype(np.uint16) * 257)
    alpha = picture(901, 64, 64, 4)
    write(source / "alpha.png", alpha)
    import_folder(source, data, "nut", SETTINGS)
    manifest = build_manifest(data / "nut").set_index("path")
    assert manifest.loc["train/good/grey16.png", ["channels", "bit_depth"]].to_list() == [1, 16]
    assert manifest.loc["train/good/alpha.png", "channels"] == 3
    kept = hashlib.sha256((source / "alpha.png").read_bytes()).hexdigest()
    assert manifest.loc["train/good/alpha.png", "sha256"] == kept


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
