"""Synthetic negatives: defects made from held-out normal images, with exact masks.

`rectangle` is the paper's (section 4.3.3). Rectangles are easy and soon saturate, so three harder kinds, in the manner
of CutPaste (Li et al. 2021) and DRAEM (Zavrtanik et al. 2021), and large faint ones decide between scores.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Painter = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
VISIBLE = 0.04  # mean change within the region, share of full scale; a defect nobody can see is none
TRIES = 8


def rectangle(
    image: np.ndarray, other: np.ndarray, rng: np.random.Generator, area: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """A black or mid-grey rectangle of `area` of the image, sides in a ratio of 1:2 to 2:1."""
    size = image.shape[0]
    height = int(np.clip(round(size * np.sqrt(area * rng.uniform(0.5, 2.0))), 1, size))
    width = int(np.clip(round(size * size * area / height), 1, size))
    top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    painted = image.copy()
    painted[mask] = rng.choice([0.0, 0.5])
    return painted, mask


def dot(
    image: np.ndarray, other: np.ndarray, rng: np.random.Generator, area: float = 0.001
) -> tuple[np.ndarray, np.ndarray]:
    """A disc of `area` of the image, black or white, whichever stands out; in the middle half of the image."""
    size = image.shape[0]
    y, x = rng.uniform(size / 4, 3 * size / 4, 2)
    rows, columns = np.mgrid[:size, :size]
    away = np.hypot(rows - y, columns - x)
    mask = away <= max(size * np.sqrt(area / np.pi), away.min())
    painted = image.copy()
    painted[mask] = 0.0 if image[mask].mean() > 0.5 else 1.0
    return painted, mask


def cut_and_paste(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A patch of another normal image, turned, in another place."""
    size = image.shape[0]
    height, width = (int(size * rng.uniform(0.06, 0.22)) for _ in range(2))
    y, x, top, left = (int(rng.integers(size - side + 1)) for side in (height, width, height, width))
    patch = np.rot90(other[y : y + height, x : x + width], 2 * int(rng.integers(2)))
    shape = cv2.ellipse(
        np.zeros((height, width), np.uint8),
        (width // 2, height // 2),
        (width // 2, height // 2),
        0,
        0,
        360,
        1,
        -1,
    )
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = shape > 0 if rng.integers(2) else True
    canvas = image.copy()
    canvas[top : top + height, left : left + width] = patch
    return np.where(mask[..., None], canvas, image), mask


def blend(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A cloud-shaped region, mixed with a plain tone or with a shuffled normal image."""
    size = image.shape[0]
    noise = np.zeros((size, size)) + sum(
        cv2.resize(rng.standard_normal((n, n)), (size, size), interpolation=cv2.INTER_CUBIC) / n for n in (4, 8, 16)
    )
    y, x = rng.integers(size // 8, size - size // 8, 2)
    rows, columns = np.mgrid[:size, :size]
    near = np.hypot(rows - y, columns - x) < size * rng.uniform(0.06, 0.16)
    mask = near & (noise > np.quantile(noise[near], 0.4))
    tone = rng.uniform(0, 1, image.shape[2]) if rng.integers(2) else np.roll(other, size // 3, (0, 1))[::-1, ::-1]
    alpha = rng.uniform(0.35, 0.9)
    return np.where(mask[..., None], (1 - alpha) * image + alpha * tone, image).astype(np.float32), mask


def scratch(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A thin crooked line, darker or brighter than what it crosses."""
    size = image.shape[0]
    angle, point = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.85, 2) * size
    points = [point]
    for _ in range(int(rng.integers(3, 7))):
        angle += rng.normal(0, 0.4)
        points.append(points[-1] + size * rng.uniform(0.03, 0.08) * np.array([np.cos(angle), np.sin(angle)]))
    line = np.rint(np.array(points)).astype(np.int32)
    canvas = cv2.polylines(np.zeros((size, size), np.uint8), [line], False, 1, int(rng.integers(2, 5)))
    mask = canvas > 0
    change = rng.choice([-1, 1]) * rng.uniform(0.15, 0.5)
    return np.where(mask[..., None], np.clip(image + change, 0, 1), image).astype(np.float32), mask


def veil(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A large soft patch, a tenth to a half of the image, less what lies beyond its edge: a little darker, brighter or
    tinted, or worn smooth."""
    size = image.shape[0]
    (y, x), angle = rng.uniform(0, size, 2), rng.uniform(0, np.pi)
    rows, columns = np.mgrid[:size, :size] - np.array([y, x])[:, None, None]
    along, across = np.cos(angle) * columns + np.sin(angle) * rows, np.cos(angle) * rows - np.sin(angle) * columns
    length, width = rng.uniform(0.15, 0.35, 2) * size
    field = np.exp(-((along / length) ** 2 + (across / width) ** 2) / 2)[..., None]
    if rng.integers(2):
        target = image + rng.choice([-1, 1]) * rng.uniform(0.06, 0.16) * rng.uniform(0.5, 1, image.shape[2])
    else:
        target = cv2.GaussianBlur(image, (0, 0), size * rng.uniform(0.01, 0.04)).reshape(image.shape)
    return np.clip(image + field * (target - image), 0, 1).astype(np.float32), field[..., 0] > 0.5


HARD: dict[str, Painter] = {"cut_and_paste": cut_and_paste, "blend": blend, "scratch": scratch}
TELLING: dict[str, Painter] = HARD | {"veil": veil}  # what a score is chosen by: defects of all sizes


def make(images: np.ndarray, painter: Painter, white: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint every image of `images` (N, S, S, C): negatives of the same dtype and masks bool (N, S, S).

    Seeded per image. A painter whose defect cannot be seen is asked again, at most TRIES times. Raises ValueError for
    other than whole numbers of grey: between 0 and 1 they would be rounded to black and white.
    """
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(f"images of {images.dtype}; negatives are painted on uint8 or uint16")
    painted, masks = [], []
    for index, raw in enumerate(images):
        rng = np.random.default_rng([seed, index])
        image = raw.astype(np.float32) / white
        for _ in range(TRIES):
            other = images[rng.integers(len(images))].astype(np.float32) / white
            result, mask = painter(image, other, rng)
            if mask.any() and np.abs(result - image)[mask].mean() > VISIBLE:
                break
        painted.append(np.rint(result * white).astype(images.dtype))
        masks.append(mask)
    return np.stack(painted), np.stack(masks)
