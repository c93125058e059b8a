"""What of a score map is marked as the defect.

Above the threshold lies more than the defect: a score that is averaged over a neighbourhood falls off around whatever
stands out, and the stronger that is, the wider the skirt that still exceeds the threshold. A blurred edge runs where
the map has fallen to half of its peak (full width at half maximum), so what lies below half of the highest value near
it in the same region is the skirt of that value. Scores are deviations from those of normal pixels, whose mean is 0.
"""

from __future__ import annotations

import cv2
import numpy as np

from components.metrics import keep_regions


def marked(score_map: np.ndarray, threshold: float, area: int, reach: int = 0) -> np.ndarray:
    """bool (H, W) of a score map float32 (H, W): its 8-connected regions above the threshold of at least `area` pixels,
    without the skirts of what lies at most `reach` pixels away along either axis; 0 keeps them.

    Each of those regions stays with at least one piece, so something is marked just where the verdict says defective:
    pieces of less than `area` pixels go, unless they are all there is; then it is the one with the highest value.
    """
    regions = keep_regions(score_map > threshold, area)
    if not reach or not regions.any():
        return regions
    near = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(regions.astype(np.uint8), connectivity=8)
    out, least = np.zeros_like(regions), score_map.min()
    for label in range(1, count):
        x, y, width, height = stats[label, :4]
        box = np.s_[y : y + height, x : x + width]
        own = labels[box] == label
        values = np.where(own, score_map[box], least)
        peak = cv2.dilate(values, near)
        out[box] |= _pieces(own & (values >= peak - np.abs(peak) / 2), values, area)
    return out


def _pieces(body: np.ndarray, values: np.ndarray, area: int) -> np.ndarray:
    """The pieces of at least `area` pixels, or the one with the highest of the `values`."""
    large = keep_regions(body, area)
    if large.any():
        return large
    _, labels = cv2.connectedComponents(body.astype(np.uint8), connectivity=8)
    return labels == labels.flat[values.argmax()]
