"""Small images and category folders for the tests of components.dataset."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from components.settings import Dataset

SETTINGS = Dataset(size=256, val_fraction=0.1, calib_fraction=0.15, min_images=20, max_megapixels=100)


def picture(seed: int = 0, height: int = 40, width: int = 48, channels: int = 3) -> np.ndarray:
    """Random uint8 H x W x C that compresses to something longer than its header."""
    rng = np.random.default_rng(seed)
    return rng.integers(40, 216, (height, width, channels), dtype=np.uint8)


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    """The bytes of an H x W x C grey, RGB or RGBA array as an image file."""
    swapped = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.shape[2]]
    ok, out = cv2.imencode(suffix, np.ascontiguousarray(image[..., swapped]))
    assert ok
    return out.tobytes()


def write(path: Path, image: np.ndarray) -> Path:
    """Write an array as the image file that its name says, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image, path.suffix))
    return path


def category(folder: Path, normals: int = 40, good: int = 3, defects: int = 3) -> Path:
    """A category in the canonical layout, every file different, each defect with a mask."""
    for i in range(normals):
        write(folder / "train" / "good" / f"{i:03d}.png", picture(i))
    for i in range(good):
        write(folder / "test" / "good" / f"{i:03d}.png", picture(1000 + i))
    mask = np.zeros((40, 48, 1), np.uint8)
    mask[5:9, 6:20] = 255
    for i in range(defects):
        write(folder / "test" / "scratch" / f"{i:03d}.png", picture(2000 + i))
        write(folder / "ground_truth" / "scratch" / f"{i:03d}_mask.png", mask)
    return folder


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
