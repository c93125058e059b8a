"""Importing a plain folder, and what every importer does with bad input: one line, and nothing changed."""

from __future__ import annotations

import errno
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.dataset.importers import import_folder
from components.dataset.manifest import build_manifest
from components.errors import UserError
from tests.unit.dataset.pictures import SETTINGS, mask, nothing_changed, photos, picture, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "data"


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


def test_a_folder_around_the_defects_is_no_kind(tmp_path: Path, data: Path) -> None:
    around = tmp_path / "download" / "bad"
    photos(around / "crack", 2, 70)
    photos(around / "good", 2, 95)
    counts = import_folder(photos(tmp_path / "ok"), data, "nut", SETTINGS, defects=around.parent).counts
    assert counts == {"train/good": 60, "test/crack": 2, "test/good": 2}
    photos(tmp_path / "one" / "crack", 2, 70)
    counts = import_folder(tmp_path / "ok", data, "bolt", SETTINGS, defects=tmp_path / "one").counts
    assert counts == {"train/good": 60, "test/crack": 2}, "a single kind keeps its name"


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
    assert warnings == ("1 training images repeat another's bytes, e.g. train/good/photo 07 é.png = train/good/z.png",)


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
