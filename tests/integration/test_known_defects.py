"""Known defects through the real stages: brought in, refused, calibrated with, told; and nothing without them."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from components import settings, stage
from components.errors import UserError
from components.stage import MODULES
from flows import data, fixity
from flows.adapters import versioning
from tests import tiny

BEFORE = ("augment", "train_vqvae", "extract_codes", "train_prior")


def run(root: Path, *names: str) -> None:
    for name in names:
        importlib.import_module(MODULES[name]).run(root, settings.load(root, "brick"))


def add_known(root: Path, marked: int, bare: int) -> None:
    """Broken parts that are in no other folder: some with a mask of their patches, some without."""
    known = root / "data/brick/known"
    mask = np.zeros((tiny.SIDE, tiny.SIDE), np.uint8)
    mask[8:16, 4:12], mask[8:16, 20:28] = 255, 255
    for number in range(marked + bare):
        kind = "patch" if number < marked else "other"
        (known / "images" / kind).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(known / "images" / kind / f"{number:03}.png"), tiny.broken(9000 + number))
        if number < marked:
            (known / "masks" / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(known / "masks" / kind / f"{number:03}_mask.png"), mask)


def calibration(root: Path) -> dict[str, object]:
    return dict(stage.read_json(stage.folder(root, "brick", "calibrate") / "calibration.json"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny category without known defects, calibrated and packaged; tests work on copies."""
    root = tiny.make(tmp_path_factory.mktemp("known") / "plant")
    run(root, *BEFORE, "calibrate", "package")
    return root


@pytest.fixture
def root(usual: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(usual, tmp_path / "plant"))


def test_calibration_sees_them_and_the_threshold_does_not(root: Path) -> None:
    augmented = stage.folder(root, "brick", "augment")
    arrays = {p.name: p.read_bytes() for p in augmented.glob("*.npy")}
    before, scores_before = calibration(root), pd.read_csv(stage.folder(root, "brick", "calibrate") / "scores.csv")
    add_known(root, marked=2, bare=1)
    run(root, "augment", "calibrate")
    found = {p.name: p.read_bytes() for p in augmented.glob("*.npy")}
    assert {name: found[name] for name in arrays} == arrays, "nothing that is trained on has changed"
    manifest = pd.read_csv(augmented / "manifest.csv", keep_default_na=False)
    names = [f"known/images/{name}.png" for name in ("other/002", "patch/000", "patch/001")]
    assert list(manifest.path[manifest.part == "known"]) == names
    images, masks = np.load(augmented / "images-known.npy"), np.load(augmented / "masks-known.npy")
    assert np.array_equal(images[1], tiny.broken(9000)[..., ::-1]), "as stored, RGB"
    assert list(masks.sum((1, 2))) == [0, 128, 128]

    after, out = calibration(root), stage.folder(root, "brick", "calibrate")
    caught = pd.read_csv(out / "known.csv")
    assert after["known"] == {"given": 3, "images": 3, "with_mask": 2, "caught": int(caught.caught.sum())}
    assert (caught.caught == (caught.score > after["image_threshold"])).all()
    etas, scores = pd.read_csv(out / "eta.csv"), pd.read_csv(out / "scores.csv")
    assert etas.known[etas.rectangles.notna()].between(0, 1).all()
    assert scores[["known_image", "known_pixel"]].to_numpy().size and scores["mean"].is_monotonic_decreasing
    kinds = [scores[[f"{kind}_image", f"{kind}_pixel"]].mean(axis=1)
             for kind in ("cut_and_paste", "blend", "scratch", "veil", "known")]  # fmt: skip
    assert scores["mean"].to_numpy() == pytest.approx(np.mean(kinds, axis=0))
    if after["eta"] == before["eta"]:
        same = scores.set_index("score").loc[scores_before.score].drop(columns=["known_image", "known_pixel", "mean"])
        assert np.array_equal(same, scores_before.drop(columns=["score", "mean"])), "painted kinds measure as before"
        if after["score"] == before["score"]:
            assert after["image_threshold"] == before["image_threshold"]


def test_without_them_the_calibration_is_the_same_bytes(root: Path) -> None:
    """Also after they came and went: a stage's folder is emptied before it runs, as DVC does it."""
    before = tiny.results(root / "artifacts/brick")
    add_known(root, marked=0, bare=1)
    shutil.rmtree(root / "data/brick/known")
    for name in ("augment", "calibrate"):
        shutil.rmtree(stage.folder(root, "brick", name))
    run(root, "augment", "calibrate")
    assert tiny.results(root / "artifacts/brick") == before
    assert "known" not in calibration(root)


def test_the_stage_refuses_a_test_image_whatever_its_name(root: Path) -> None:
    target = root / "data/brick/known/images/dent/new name.bmp"
    target.parent.mkdir(parents=True)
    cv2.imwrite(str(target), cv2.imread(str(root / "data/brick/test/patch/002.png")))
    with pytest.raises(UserError, match=r"known defect known/images/dent/new name\.bmp is in the test set too"):
        run(root, "augment")


def test_import_versions_them_and_a_refusal_leaves_everything(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versioning, "check", lambda _: None)
    versions = []
    monkeypatch.setattr(versioning, "add_data", lambda each: versions.append(each) or "md5")
    monkeypatch.setattr(versioning, "data_md5", lambda _: "0" * 32 + ".dir")
    bad = tmp_path / "bad"
    bad.mkdir()
    for number in range(2):
        cv2.imwrite(str(bad / f"{number}.png"), tiny.broken(9100 + number))
    report = data.import_category(root, "known", bad, "brick")
    assert report.counts["known/images/defect"] == 2 and versions == [root]
    kept = json.loads((root / "audit/data/brick/validation.json").read_text())
    assert kept["success"] and kept["statistics"]["images"] == 50
    assert kept["data_md5"] == fixity.listing_md5(fixity.listing(root / "data/brick"))
    cv2.imwrite(str(bad / "dark.png"), np.zeros((tiny.SIDE, tiny.SIDE, 3), np.uint8))
    before = {p: p.read_bytes() for p in (root / "data").rglob("*") if p.is_file()}
    for given, line in (
        ({"replace": True}, "refused brick: known/images/defect/dark.png is black or white all over"),
        ({"policy": "object"}, "--policy does not go with 'known'; leave it out"),
        ({"defects": bad}, "--defects does not go with 'known'; leave it out"),
    ):
        with pytest.raises(UserError, match=line):
            data.import_category(root, "known", bad, "brick", **given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nut"):
        data.import_category(root, "known", bad, "nut")
    assert {p: p.read_bytes() for p in (root / "data").rglob("*") if p.is_file()} == before
    assert len(versions) == 1 and json.loads((root / "audit/data/brick/validation.json").read_text()) == kept
