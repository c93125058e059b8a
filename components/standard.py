"""What a score map is on normal images, position by position, so that maps of different kinds can be added."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

POOLED = 30.0  # images' worth of trust in the spread over all positions


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of a map over normal images, float32 (s, s) each."""

    mean: np.ndarray
    deviation: np.ndarray

    def apply(self, maps: np.ndarray) -> np.ndarray:
        """(maps - mean) / deviation for maps (B, S, S): deviations from normal, without unit."""
        size = maps.shape[-2:][::-1]
        mean, deviation = (cv2.resize(a, size, interpolation=cv2.INTER_LINEAR) for a in (self.mean, self.deviation))
        return (maps - mean) / deviation


def level(maps: np.ndarray) -> Standard:
    """One mean and one deviation for all positions of the maps (N, S, S) of normal images."""
    mean, deviation = maps.mean(dtype=np.float64), maps.std(dtype=np.float64)
    return Standard(np.full((1, 1), mean, np.float32), np.full((1, 1), deviation + 1e-6, np.float32))


def standard(maps: np.ndarray, grid: int, least: float) -> Standard:
    """Fit on the maps (N, S, S) of normal images, at the resolution of the code grid.

    A few dozen images say little of one position's variance: it is blurred over its neighbours and drawn
    towards the variance over all positions, by POOLED images' worth. No deviation is below `least`: where nothing is
    ever restored in some normal images, the first that shows a little would be as far from them as one likes.
    """
    small = np.stack([cv2.resize(m, (grid, grid), interpolation=cv2.INTER_AREA) for m in maps]).astype(np.float64)
    mean = cv2.GaussianBlur(small.mean(0), (0, 0), 1.0)
    variance = cv2.GaussianBlur(((small - mean) ** 2).mean(0), (0, 0), 1.0)
    shrunk = (len(maps) * variance + POOLED * variance.mean()) / (len(maps) + POOLED)
    return Standard(mean.astype(np.float32), np.sqrt(shrunk).clip(least).astype(np.float32))
