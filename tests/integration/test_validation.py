"""Great Expectations on real manifests: each kind of bad image is named, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.dataset.manifest import build_manifest
from components.dataset.split import assign_parts
from components.settings import Dataset
from flows.adapters.validation import ValidationReport, validate
from tests.unit.dataset.pictures import SETTINGS, category, encoded, picture, write

LIMITED = Dataset(size=256, val_fraction=0.1, calib_fraction=0.15, min_images=20, max_megapixels=0.05)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ValidationReport]:
    """A category with one bad file of each kind, and what Great Expectations said of it."""
    folder = tmp_path_factory.mktemp("bad")
    good = category(folder, normals=25) / "train" / "good"
    (good / "cut é.png").write_bytes(encoded(picture(500))[:900])
    (good / "text.png").write_text("text")
    write(good / "black.png", np.zeros((40, 48, 1), np.uint8))
    write(good / "white.png", np.full((40, 48, 3), 255, np.uint8))
    write(good / "black16.png", np.full((40, 48, 1), 20, np.uint16))
    write(good / "camera12.png", picture(501, channels=1).astype(np.uint16) * 4)  # dim, but a picture
    write(good / "narrow.png", picture(502, 40, 31))
    write(good / "low.png", picture(503, 31, 40))
    write(good / "large.png", picture(504, 400, 400))
    (good / "seen.png").write_bytes((folder / "test" / "good" / "000.png").read_bytes())
    report = validate(build_manifest(folder, max_megapixels=0.05), LIMITED, folder / "docs")
    return folder, report


def test_a_sound_category_passes(tmp_path: Path) -> None:
    manifest = assign_parts(build_manifest(category(tmp_path, normals=60)), 0.1, 0.15)
    report = validate(manifest, SETTINGS)
    assert (report.success, report.failures, report.docs) == (True, [], None)
    assert report.statistics["images"] == 66
    assert report.statistics["successful_expectations"] == report.statistics["evaluated_expectations"] == 10


def test_each_bad_file_is_named_with_its_reason(bad: tuple[Path, ValidationReport]) -> None:
    _, report = bad
    reasons = dict(report.failures)
    assert not report.success
    assert reasons.pop("train/good/cut é.png").endswith("is truncated or damaged; copy it again")
    assert "is not an image" in reasons.pop("train/good/text.png")
    assert "above the limit of 0.05 megapixels" in reasons.pop("train/good/large.png")
    assert reasons == {
        "train/good/black.png": "is black or white all over",
        "train/good/white.png": "is black or white all over",
        "train/good/black16.png": "is black or white all over",
        "train/good/narrow.png": "is narrower than 32 pixels",
        "train/good/low.png": "is lower than 32 pixels",
        "train/good/seen.png": "holds the same bytes as test/good/000.png",
        "test/good/000.png": "holds the same bytes as train/good/seen.png",
    }
    assert len(report.failures) == 10, "each file breaks one rule only"


def test_data_docs_are_kept(bad: tuple[Path, ValidationReport]) -> None:
    folder, report = bad
    assert report.docs == folder / "docs" / "index.html"
    assert "images" in report.docs.read_text()
    page = next((folder / "docs" / "validations").rglob("*.html")).read_text()
    assert "black.png" in page


def test_ranges_of_a_category(tmp_path: Path) -> None:
    manifest = build_manifest(category(tmp_path))
    dim = write(tmp_path / "train" / "good" / "dim.png", picture(700) // 2)
    blurred = write(tmp_path / "train" / "good" / "blurred.png", np.full((40, 48, 3), 128, np.uint8))
    ranges = {
        column: (float(manifest[column].min()) * 0.9, float(manifest[column].max()) * 1.1)
        for column in ("brightness", "sharpness")
    }
    report = validate(build_manifest(tmp_path), SETTINGS, ranges=ranges)
    found: dict[str, list[str]] = {}
    for path, reason in report.failures:
        found.setdefault(path, []).append(reason)
    assert set(found) == {f"train/good/{dim.name}", f"train/good/{blurred.name}"}
    assert len(found["train/good/dim.png"]) == 2
    (reason,) = found["train/good/blurred.png"]
    assert reason.startswith("has a sharpness outside of the category's ")
    with pytest.raises(KeyError, match="shine"):
        validate(manifest, SETTINGS, ranges={"shine": (0, 1)})


def test_labels_and_parts_that_nobody_knows(tmp_path: Path) -> None:
    manifest = build_manifest(category(tmp_path))
    odd = manifest.assign(part=["elsewhere", *manifest["part"][1:]], label=[0, 7, *manifest["label"][2:]])
    report = validate(odd, SETTINGS)
    assert report.failures == [
        (odd["path"][0], "is in no known part (train, val, calib, test, known)"),
        (odd["path"][1], "is labelled neither normal (0) nor defective (1)"),
    ]


def test_no_images_at_all(tmp_path: Path) -> None:
    empty = build_manifest(tmp_path)
    assert isinstance(empty, pd.DataFrame)
    assert validate(empty, SETTINGS).statistics["images"] == 0


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    validate(build_manifest(category(tmp_path)), SETTINGS, tmp_path / "docs")
    assert capfd.readouterr() == ("", "")
