"""Which images are scored: painted ones are the normal ones but for what was painted."""

import math
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from components.arrays import unit
from components.evaluate.protocol import PAINTERS, absent, cases, pixel_metrics
from components.settings import Evaluate

SIZE = 64


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (12, np.uint16), (16, np.uint16)])
def test_painted_images_are_the_normal_ones_outside_of_what_was_painted(tmp_path: Path, bits: int, dtype: type) -> None:
    white = 2**bits - 1
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        grey = cv2.resize(rng.uniform(0.2, 0.8, (8, 8)), (SIZE, SIZE))
        cv2.imwrite(str(tmp_path / name), np.rint(grey * white).astype(dtype))
    manifest = pd.DataFrame({"path": ["a.png", "b.png"], "part": "val", "label": 0, "defect": "good", "mask": ""})
    inspector = SimpleNamespace(calibration={"white": white}, channels=1, image_size=SIZE)
    synthetic, found = cases(tmp_path, manifest, inspector, seed=0)
    assert synthetic and len(found) == 2 * (1 + len(PAINTERS))
    normal = {case.path: unit(case.read()[0], 1, white, SIZE) for case in found if not case.label}
    for case in found[2:]:
        image, mask = case.read()
        seen, was = unit(image, 1, white, SIZE), normal[case.path.split("#")[0]]
        assert np.abs(seen - was)[~mask].max() <= 1 / 255, case.path
        assert np.abs(seen - was)[mask].mean() > 0.02, case.path


def test_without_a_good_test_image_those_that_stopped_the_training_are_judged() -> None:
    rows = [("train/good/a.png", "train", 0), ("train/good/b.png", "val", 0), ("train/good/c.png", "calib", 0),
            ("test/dent/d.png", "test", 1)]  # fmt: skip
    manifest = pd.DataFrame(rows, columns=["path", "part", "label"]).assign(defect="good", mask="")
    inspector = SimpleNamespace()
    synthetic, found = cases(Path(), manifest, inspector, seed=0)
    assert not synthetic
    assert {case.path: case.label for case in found} == {"train/good/b.png": 0, "test/dent/d.png": 1}
    manifest.loc[2, "part"] = "test"
    paths = [case.path for case in cases(Path(), manifest, inspector, seed=0)[1]]
    assert paths == ["train/good/c.png", "test/dent/d.png"]


def test_pixel_metrics_without_a_mask_are_absent_and_not_zero() -> None:
    maps, nowhere = np.ones((2, 8, 8), np.float32), np.zeros((2, 8, 8), bool)
    found = pixel_metrics(maps, ~nowhere, nowhere, Evaluate(0.3, 1))
    assert all(math.isnan(value) for value in found.values()), found
    scores = pd.DataFrame({"label": [0, 1], "mask_known": [1, 0]})
    assert absent(scores, found | {"image_auroc": 0.5}) == dict.fromkeys(found, "no defective image has a mask")
