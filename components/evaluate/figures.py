"""Pictures for people: what was put in, what the model made of it, where it differs."""

from __future__ import annotations

import cv2
import numpy as np

from components.inspector import Inspection, Inspector


def panel(inspector: Inspector, image: np.ndarray, truth: np.ndarray | None, seen: Inspection) -> np.ndarray:
    """RGB uint8 (S, 5 S or 6 S, 3): input, true mask (if known), reconstruction, restored, heat map, regions."""
    size = inspector.image_size
    picture = display(image, (size, size))
    tiles = [picture]
    if truth is not None:
        tiles.append(np.repeat(truth[..., None].astype(np.uint8) * 255, 3, axis=2))
    tiles += [
        seen.reconstructed,
        seen.restored,
        overlay(inspector, picture, seen.score_map),
        outline(picture, seen.mask),
    ]
    return np.concatenate(tiles, axis=1)


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
    """The picture with the regions of the mask drawn round in red."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(picture.copy()), contours, -1, (255, 0, 0), 1)
