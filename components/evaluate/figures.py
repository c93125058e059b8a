"""Pictures for people: what was put in, what the model made of it, where it differs."""

from __future__ import annotations

import cv2
import numpy as np

from components.arrays import unit
from components.dataset.images import resize_mask
from components.inspector import Inspection, Inspector

HALO, EDGE = 4, 2  # pixels; red on a red part could not be seen without a white edge
RED, WHITE = (214, 0, 28), (255, 255, 255)


def tiles(inspector: Inspector, image: np.ndarray, truth: np.ndarray | None, seen: Inspection) -> dict[str, np.ndarray]:
    """RGB uint8 (S, S, 3) pictures by name: input, mask (where the true regions are known), reconstruction and
    restored (where the model makes pictures), map, regions.

    The input is shown as the model takes it in, on the scale of its reconstruction: a 16-bit image stretched to its
    own range would look unlike what is compared with it.
    """
    size = inspector.image_size
    picture = as_seen(inspector, image)
    shown = {"input": picture}
    if truth is not None:
        white = resize_mask(truth, size).astype(np.uint8) * 255
        shown["mask"] = np.repeat(white[..., None], 3, axis=2)
    for name in ("reconstructed", "restored"):
        made = getattr(seen, name, None)
        if made is not None:
            shown[name] = made
    return shown | {
        "map": overlay(inspector, picture, seen.score_map),
        "regions": outline(picture, seen.mask),
    }


def as_seen(inspector: Inspector, image: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) uint8 or uint16 to RGB uint8 (S, S, 3), by the steps that lead into the model."""
    white = float(inspector.calibration["white"])
    small = np.rint(unit(image, inspector.channels, white, inspector.image_size) * 255).astype(np.uint8)
    return np.repeat(small, 3, axis=2) if small.shape[2] == 1 else small


def display(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 1 or 3) uint8 or uint16 to RGB uint8 of `size` (width, height), 16-bit images stretched to
    their range."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(max(image.max(), image.min() + 1))
        image = ((image - low) * (255 / (high - low))).astype(np.uint8)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    return np.repeat(small, 3, axis=2) if small.shape[2] == 1 else small


def overlay(inspector: Inspector, picture: np.ndarray, score_map: np.ndarray) -> np.ndarray:
    """The heat map laid half transparent over the picture, both (H, W)."""
    return cv2.addWeighted(picture, 0.5, np.ascontiguousarray(inspector.colours(score_map)), 0.5, 0)


def outline(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the regions of the mask drawn round in red, on a white edge."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = cv2.drawContours(np.ascontiguousarray(picture.copy()), contours, -1, WHITE, HALO)
    return cv2.drawContours(drawn, contours, -1, RED, EDGE)
