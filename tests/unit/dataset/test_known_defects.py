"""Known defects: real ones that calibration may see, and that are neither trained nor tested on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from components.dataset import known_defects
from components.dataset.importers import import_folder, import_known
from components.dataset.manifest import COLUMNS, build_manifest
from components.errors import UserError
from tests.unit.dataset.pictures import SETTINGS, category, encoded, mask, photos, picture, write

KINDS = {"train/good/003.png": "among the normal images", "test/scratch/001.png": "in the test set",
         "test/good/002.png": "in the test set"}  # fmt: skip


@pytest.fixture(scope="module")
def bolts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with one category; nothing in it is ever changed."""
    data = tmp_path_factory.mktemp("workspace") / "data"
    category(data / "bolt")
    return data


def check(bolts: Path, holder: Path) -> None:
    found = known_defects.list_known(holder)
    known_defects.check_known(holder, found, bolts / "bolt", build_manifest(bolts / "bolt"), 100)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.text("abcdefghijklmnopqrstuvwxyzé 0123456789-", min_size=1, max_size=20).filter(lambda s: s.strip() == s),
    st.sampled_from([".png", ".bmp", ".tiff", ".ppm"]),
    st.integers(0, 1),
)
def test_an_image_that_is_tested_or_trained_on_is_refused_whatever_its_name(
    tmp_path_factory: pytest.TempPathFactory, bolts: Path, original: str, name: str, suffix: str, deep: int
) -> None:
    """Its bytes under another name, and its pixels in another format without loss, or in 16 bits."""
    holder = tmp_path_factory.mktemp("holder")
    target = holder / "known" / "images" / "dent" / f"{name}{suffix}"
    target.parent.mkdir(parents=True)
    if suffix == ".png" and not deep:
        target.write_bytes((bolts / "bolt" / original).read_bytes())
    else:
        pixels = cv2.imread(str(bolts / "bolt" / original))
        wide = pixels.astype(np.uint16) * 257 if deep and suffix != ".bmp" else pixels
        target.write_bytes(cv2.imencode(suffix, wide)[1].tobytes())
    with pytest.raises(UserError, match=f"is {KINDS[original]} too; remove .*: {original}$"):
        check(bolts, holder)


def test_a_picture_of_the_same_size_and_brightness_is_another_picture(bolts: Path, tmp_path: Path) -> None:
    pixels = picture(2001)
    write(tmp_path / "known" / "images" / "dent" / "turned.png", np.ascontiguousarray(pixels[::-1]))
    check(bolts, tmp_path)


def test_grey_stored_as_rgb_is_the_same_image(tmp_path: Path) -> None:
    grey = picture(5, channels=1)
    write(tmp_path / "train" / "good" / "a.png", grey)
    write(tmp_path / "known" / "images" / "dent" / "b.png", np.repeat(grey, 3, axis=2))
    with pytest.raises(UserError, match="among the normal images"):
        known_defects.check_known(tmp_path, known_defects.list_known(tmp_path), tmp_path, build_manifest(tmp_path), 100)


def test_the_listing_has_the_manifests_columns_and_finds_masks(tmp_path: Path) -> None:
    assert list(known_defects.list_known(tmp_path).columns) == list(COLUMNS)
    assert not len(known_defects.list_known(tmp_path))
    write(tmp_path / "known" / "images" / "dent" / "a.png", picture(1))
    write(tmp_path / "known" / "images" / "crack" / "a.jpg", picture(2))
    mask(tmp_path / "known" / "masks" / "dent" / "a_mask.png")
    rows = known_defects.list_known(tmp_path).set_index("path")
    assert list(rows.index) == ["known/images/crack/a.jpg", "known/images/dent/a.png"]
    assert list(rows["mask"]) == ["", "known/masks/dent/a_mask.png"]
    assert set(rows["part"]) == {"known"} and set(rows["label"]) == {1} and set(rows["error"]) == {""}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("known/loose.png", r"known/loose\.png is out of place .known defects lie in known/images/KIND"),
        ("known/images/loose.png", r"known/images/loose\.png is out of place"),
        ("known/dent/a.png", r"known/dent is out of place"),
        ("known/masks/dent/b_mask.png", r"cannot be used: mask .*b_mask\.png has no image"),
        ("known/images/dent/b_mask.png", "is called like a mask; masks belong into known/masks"),
        ("known/images/good/b.png", "known/images/good holds no defects"),
        ("known/images/dent/b.txt", r"is not an image \(its name ends in '\.txt'\)"),
    ],
)
def test_what_is_out_of_place_is_named(bolts: Path, tmp_path: Path, name: str, line: str) -> None:
    write(tmp_path / "known" / "images" / "dent" / "a.png", picture(1))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(3)))
    with pytest.raises(UserError, match=line):
        check(bolts, tmp_path)


def test_imported_with_masks_replaced_and_kept_by_the_categorys_own_replacement(tmp_path: Path) -> None:
    data = tmp_path / "workspace" / "data"
    normal = photos(tmp_path / "ok")
    import_folder(normal, data, "nut", SETTINGS)
    bad = tmp_path / "bad"
    photos(bad / "crack", 2, 70)
    photos(bad / "dent", 1, 75)
    mask(tmp_path / "masks" / "photo 70 é_mask.png")
    seen = []
    report = import_known(bad, data, "nut", SETTINGS, masks=tmp_path / "masks", validate=seen.append)
    assert report.counts == {"train/good": 60, "known/images/crack": 2, "known/images/dent": 1}
    assert report.warnings[0].startswith("2 known defects have no mask and count for whole images only: photo 71")
    assert len(seen[0]) == 63 and list(seen[0]["part"][-3:]) == ["known"] * 3
    assert (data / "nut/known/masks/crack/photo 70 é_mask.png").is_file()
    with pytest.raises(UserError, match=r"data/nut/known is there already; replace it"):
        import_known(bad, data, "nut", SETTINGS)
    # The normal images are imported anew: what is known of defects stays, and is checked against the new ones.
    before = bytes_in(data / "nut" / "known")
    photos(normal, 1, 99)
    import_folder(normal, data, "nut", SETTINGS, replace=True)
    assert bytes_in(data / "nut" / "known") == before
    photos(normal, 1, 75)
    whole = bytes_in(data)
    with pytest.raises(UserError, match="among the normal images too"):
        import_folder(normal, data, "nut", SETTINGS, replace=True)
    assert bytes_in(data) == whole
    assert import_known(bad / "dent", data, "nut", SETTINGS, replace=True).counts["known/images/defect"] == 1
    assert not (data / "nut/known/masks").exists()
    assert [p.name for p in (data.parent / ".kintsugi").iterdir()] == ["import.lock"]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda f: (f / "a.png").write_bytes(b"\x89PNG cut"), r"^a known defect cannot be used: known/images.*damaged"),
        (lambda f: write(f / "a.png", picture(5)), "among the normal images too"),
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no images; give the folder that the defective"),
        (lambda f: write(f / "a_mask.png", picture(50)), "called like a mask"),
    ],
)
def test_a_refused_import_changes_nothing(tmp_path: Path, spoil, line: str) -> None:  # type: ignore[no-untyped-def]
    data = tmp_path / "workspace" / "data"
    category(data / "bolt")
    import_known(photos(tmp_path / "old", 1, 60), data, "bolt", SETTINGS)
    before = bytes_in(data)
    spoil(photos(tmp_path / "new", 2, 70))
    with pytest.raises(UserError, match=line) as caught:
        import_known(tmp_path / "new", data, "bolt", SETTINGS, replace=True)
    assert "\n" not in str(caught.value) and ".kintsugi" not in str(caught.value)
    assert bytes_in(data) == before


def test_known_defects_need_a_category(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data/nut is not there; import its normal images first"):
        import_known(photos(tmp_path / "bad", 1), tmp_path / "data", "nut", SETTINGS)
    assert not (tmp_path / "data").exists()
