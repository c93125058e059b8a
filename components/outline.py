"""What of a score map is marked as the defect.

Above the threshold lies more than the defect: a score that is averaged over a neighbourhood falls off around whatever
stands out, and the stronger that is, the wider the skirt that still exceeds the threshold. A blurred edge runs where
the map has fallen to half of its peak (full width at half maximum), so what lies below half of the highest value
within the neighbourhood's reach is the skirt of that value. 0 is the usual normal image's score.
"""

from __future__ import annotations

import cv2
import numpy as np

from components.metrics import keep_regions


def marked(score_map: np.ndarray, threshold: float, area: int, reach: int = 0) -> np.ndarray:
    """bool (H, W) of a score map float32 (H, W): its 8-connected regions above the threshold of at least `area` pixels,
    without the skirts of what lies at most `reach` pixels away along either axis; 0 keeps them.

    Empty exactly when there is no such region: the highest pixel of all is nobody's skirt.
    """
    regions = keep_regions(score_map > threshold, area)
    if not reach or not regions.any():
        return regions
    peak = cv2.dilate(np.where(regions, score_map, score_map.min()), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    return regions & (score_map >= peak - np.abs(peak) / 2)
