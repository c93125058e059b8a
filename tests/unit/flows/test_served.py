"""The example of a request that goes into the registry with a model."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from flows.adapters import served


def shown(data: Path) -> list[int]:
    """The first pixel of the example."""
    table = served._example(data)
    assert isinstance(table, pd.DataFrame)
    png = np.frombuffer(base64.b64decode(table["image"][0]), np.uint8)
    image = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert image is not None and image.shape[:2] == (served.EXAMPLE_SIDE, served.EXAMPLE_SIDE)
    return [int(value) for value in image[0, 0]]


def test_the_example_is_the_first_image_whatever_else_lies_there(tmp_path: Path) -> None:
    good = tmp_path / "train/good"
    good.mkdir(parents=True)
    (good / ".gitkeep").touch()
    (good / "00-empty.png").touch()
    (good / "00-text.png").write_text("no image")
    assert shown(tmp_path) == [127] * 3  # grey where there is none
    cv2.imwrite(str(good / ".hidden.png"), np.full((8, 8, 3), 7, np.uint8))
    cv2.imwrite(str(good / "01.png"), np.full((32, 32, 3), 201, np.uint8))
    assert shown(tmp_path) == [201] * 3
