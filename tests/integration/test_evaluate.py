"""The stage `evaluate` on a real bundle of tiny networks: every kind of image goes through to the page."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from components import evaluate, settings
from components.inspector import Inspection, Inspector
from tests.artifacts_fixture import Fabricator, make_workspace, write_bundle


@pytest.fixture
def bolts(tmp_path: Path) -> Path:
    """A workspace with a category of fabricated images and a bundle that was never trained."""
    root = make_workspace(tmp_path / "plant")
    Fabricator(root)()
    write_bundle(root / "artifacts" / "brick" / "package")
    return root


def run(root: Path) -> tuple[dict[str, object], str, pd.DataFrame]:
    evaluate.run(root, settings.load(root, "brick"))
    out = root / "artifacts" / "brick" / "evaluate"
    shown = pd.read_csv(out / "gallery" / "gallery.csv")
    assert {path.name for path in (out / "gallery").iterdir()} == {*shown.file, "gallery.csv", "scale.png"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert len(page) < 8e6
    return json.loads((out / "metrics.json").read_text()), page, shown


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_images_of_either_depth_are_shown(bolts: Path, dtype: type) -> None:
    top = np.iinfo(dtype).max
    for path in sorted((bolts / "data" / "brick" / "test").rglob("*.png")):
        image = np.random.default_rng(len(path.name)).integers(0, top, (40, 56), dtype=dtype)
        cv2.imwrite(str(path), image)
    for path in (bolts / "data" / "brick" / "ground_truth").rglob("*.png"):
        cv2.imwrite(str(path), np.pad(np.full((9, 9), 255, np.uint8), ((5, 26), (20, 27))))
    metrics, page, shown = run(bolts)
    assert metrics["evaluated_on"] == "test" and metrics["public_set"] is None
    assert sorted(shown.defect) == ["good"] * 3 + ["scratch"] * 3
    assert shown.tiles[shown.label == 1].str.contains("mask").all()
    assert page.count("data:image/jpeg") == 3 * 5 + 3 * 6


def test_a_category_without_defects_shows_painted_ones(bolts: Path) -> None:
    path = bolts / "artifacts" / "brick" / "augment" / "manifest.csv"
    manifest = pd.read_csv(path, keep_default_na=False)
    manifest[manifest.label == 0].to_csv(path, index=False)
    metrics, page, shown = run(bolts)
    assert metrics["evaluated_on"] == "synthetic" and "No real defect is known" in page
    assert set(shown.defect) > {"good", "rectangle", "scratch"}


def test_a_model_without_likelihood_or_pictures_is_shown_by_its_map(
    bolts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Inspector.inspect

    def bare(self: Inspector, images: list[np.ndarray]) -> list[Inspection]:
        for one in (found := real(self, images)):
            for name in ("likelihood", "reconstructed", "restored"):
                object.__setattr__(one, name, None)
        return found

    monkeypatch.setattr(Inspector, "inspect", bare)
    _, _, shown = run(bolts)
    assert set(shown.tiles) == {"input|map|regions", "input|mask|map|regions"}


def test_a_second_run_leaves_no_picture_of_the_first(bolts: Path) -> None:
    run(bolts)
    (bolts / "artifacts" / "brick" / "evaluate" / "gallery" / "old.png").write_bytes(b"")
    run(bolts)
