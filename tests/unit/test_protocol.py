"""Which images are scored: painted ones are the normal ones but for what was painted."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from components.arrays import unit
from components.evaluate.protocol import PAINTERS, cases

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
