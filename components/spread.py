"""How far the score of a point spreads: what a map adds around a defect that is hardly there.

A map's response to a dot falls off with the distance d from it, as 2^-(d / h)^2 or so, and h, where half is left, is
the width of its blur. Of two places of a skirt that are h apart, the outer has less than half of the inner one's
response as soon as it is beyond h itself: so far `components.outline` has to look for what a skirt belongs to.
"""

from __future__ import annotations

import numpy as np


def half_width(response: np.ndarray, dots: np.ndarray) -> int:
    """h in whole pixels, from the maps (N, S, S) of images with one dot each less those without it, and the dots' masks
    bool (N, S, S); 0 where the dots raise no map.

    Each image counts alike: its response is divided by its own largest one, and the median is taken, so that a few
    dots that hardly raise the map, and what else their images have, do not matter. Distances are from a dot's middle,
    up to a quarter of the image, where a dot that was drawn in its middle half has room.
    """
    size = response.shape[-1]
    rows, columns = np.mgrid[:size, :size]
    profiles = []
    for one, dot in zip(response, dots, strict=True):
        if one[dot].max() <= 0:
            continue
        y, x = (axis[dot].mean() for axis in (rows, columns))
        away = np.hypot(rows - y, columns - x).astype(int)
        near = away <= size // 4
        profiles.append(np.bincount(away[near], one[near]) / np.bincount(away[near]) / one[dot].max())
    if not profiles:
        return 0
    profile = np.median(profiles, 0)
    below = np.flatnonzero(profile < profile[0] / 2)
    return int(below[0]) if len(below) else size // 4
