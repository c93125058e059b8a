"""The built-in category: crops of scikit-image's bundled photograph `brick`, with painted defects.

Anybody may have it: the photograph travels inside the package, so that the first run needs no download.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

CATEGORY = "brick"
SIDE = 112  # pixels of the photograph in a crop
SIZE = 256
# Test crops come from between these columns of the 512-column photograph and train crops from both sides: no pixel
# of a test image was ever seen in training, and what is seen in the test lies between what was learnt. (Cut
# elsewhere it does not: the joints grow thicker towards the camera and the courses lean outwards on both sides,
# and the model rightly calls either a change.)
MIDDLE = slice(192, 320)
TRAIN, GOOD, PER_DEFECT = 160, 20, 10

Painter = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def make_sample(category: Path, seed: int = 0) -> None:
    """Write the sample in MVTec's layout into the folder `category`; the same bytes for the same seed."""
    from skimage.data import brick

    photograph = brick()
    sides, middle = (photograph[:, : MIDDLE.start], photograph[:, MIDDLE.stop :]), photograph[:, MIDDLE]
    rng = np.random.default_rng(seed)
    for number in range(TRAIN):
        _write(category / "train" / "good" / f"{number:03d}.png", _crop(sides[number % 2], rng))
    for number in range(GOOD):
        _write(category / "test" / "good" / f"{number:03d}.png", _crop(middle, rng))
    for defect, paint in DEFECTS.items():
        for number in range(PER_DEFECT):
            image, mask = paint(_crop(middle, rng).astype(np.float32), rng)
            _write(category / "test" / defect / f"{number:03d}.png", np.clip(image, 0, 255).astype(np.uint8))
            _write(category / "ground_truth" / defect / f"{number:03d}_mask.png", mask.astype(np.uint8) * 255)


def _crop(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top = rng.integers(region.shape[0] - SIDE + 1)
    left = rng.integers(region.shape[1] - SIDE + 1)
    return cv2.resize(region[top : top + SIDE, left : left + SIDE], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())  # unlike cv2.imwrite, says why it fails


def crack(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark crooked line of two to four pixels."""
    at, angle = rng.uniform(50, SIZE - 50, 2), rng.uniform(0, 2 * np.pi)
    points = [at]
    for _ in range(8):
        angle += rng.normal(0, 0.5)
        points.append(points[-1] + rng.uniform(8, 18) * np.array([np.cos(angle), np.sin(angle)]))
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    line = np.rint(np.array(points)).astype(np.int32)
    mask = cv2.polylines(canvas, [line], False, 1, int(rng.integers(2, 5))) > 0
    return np.where(mask, image * rng.uniform(0.15, 0.35), image), mask


def stain(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright cloud with soft edges; the mask is where it adds more than six grey levels."""
    noise = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 8)
    y, x = rng.uniform(60, SIZE - 60, 2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    soft = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * rng.uniform(14, 26) ** 2))
    added = soft * (60 + 40 * noise / noise.std() * 0.3)
    return image + added, added > 6


def hole(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A chip with a ragged rim, dark inside."""
    y, x = rng.uniform(40, SIZE - 40, 2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    angle = np.arctan2(rows - y, columns - x)
    ragged = rng.uniform(9, 18) * (1 + 0.2 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(7 * angle))
    mask = np.hypot(rows - y, columns - x) < ragged
    return np.where(mask, 25 + rng.normal(0, 6, image.shape), image), mask


DEFECTS: dict[str, Painter] = {"crack": crack, "stain": stain, "hole": hole}
