"""Metrics on score maps. Scores are never clamped; all sums are in float64.

Shapes: N images of H x W pixels; maps float (N, H, W), higher is more anomalous; masks bool (N, H, W).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, NaN when only one class is there."""
    from sklearn.metrics import roc_auc_score  # a second to import, which inspecting does not need

    labels, scores = np.asarray(labels).ravel().astype(bool), np.asarray(scores).ravel()
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else float("nan")


def regions(mask: np.ndarray) -> list[np.ndarray]:
    """8-connected components of a mask (H, W), each as the flat indices of its pixels."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    return np.split(order, np.searchsorted(flat[order], np.arange(1, count)))[1:]


def region_weights(masks: np.ndarray) -> np.ndarray:
    """float64 (N, H, W): each region's pixels weigh 1 / (its size x number of regions); they sum to 1."""
    weights = np.zeros(masks.shape, np.float64)
    count = 0
    for weight, mask in zip(weights.reshape(len(masks), -1), masks, strict=True):
        for region in regions(mask):
            weight[region] = 1 / len(region)
            count += 1
    return weights / max(count, 1)


def pro(marked: np.ndarray, masks: np.ndarray) -> float:
    """Per-region overlap (Eq. 7): mean over ground-truth regions of the share that is `marked`, bool (N, H, W)."""
    if not masks.any():
        return float("nan")
    return float(region_weights(masks)[marked].sum())


def pro_curve(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per defect pixel, sorted: the false-positive rate at which it is covered, and the PRO reached.

    A pixel that ties with normal pixels counts half of them, as the trapezoidal rule would.
    """
    weights = region_weights(masks)[masks]
    normal = np.sort(maps[~masks])
    scores = maps[masks]
    above = len(normal) - np.searchsorted(normal, scores, "right")
    level = len(normal) - np.searchsorted(normal, scores, "left")
    rate = (above + level) / 2 / max(len(normal), 1)
    order = np.argsort(rate, kind="stable")
    return rate[order], np.cumsum(weights[order])


def aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """PRO integrated over false-positive rates 0..limit, over limit (Bergmann et al. 2021); NaN without
    defects or without normal pixels.

    Exact rather than sampled: a defect pixel of weight w that is covered from rate f on adds w (limit - f).
    """
    if not masks.any() or masks.all():
        return float("nan")
    rate, reached = pro_curve(maps, masks)
    weights = np.diff(reached, prepend=0.0)
    return float((weights * np.clip(limit - rate, 0, None)).sum() / limit)


def f1(labels: ArrayLike, predicted: ArrayLike) -> float:
    """2 TP / (2 TP + FP + FN); NaN when there is neither a positive nor a positive verdict."""
    labels, predicted = np.asarray(labels, bool), np.asarray(predicted, bool)
    total = int(labels.sum()) + int(predicted.sum())
    return 2 * int((labels & predicted).sum()) / total if total else float("nan")


def balanced_accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Mean of the two classes' accuracies, NaN when one is not there."""
    labels, predicted = np.asarray(labels, bool), np.asarray(predicted, bool)
    if not labels.any() or labels.all():
        return float("nan")
    return (float(predicted[labels].mean()) + float((~predicted[~labels]).mean())) / 2


def area_score(score_map: np.ndarray, area: int) -> float:
    """The highest level at which an 8-connected region of at least `area` pixels of the map (H, W) still
    reaches it: the image's score; the lowest value of a map that is smaller than that.

    An image is anomalous, by the paper's rule, if a region of the minimum area survives the threshold;
    with this score that is the same as score > threshold. Equal to the maximum of the map's area opening, found by
    bisection over its values from the top: the level is doubled in rank until a region is there, and from then on
    only the box around such regions is looked at, since a region of a higher level lies within one of a lower.
    """
    values = np.sort(score_map, axis=None)[::-1]
    reached, missed = min(area, values.size), 0  # ranks: fewer pixels than `area` reach any level above
    while (large := _large(score_map >= values[reached - 1], area)) is None:
        if reached == values.size:
            return float(values[-1])
        reached, missed = min(2 * reached, values.size), reached
    x, y, width, height = large
    inside = score_map[y : y + height, x : x + width]
    while reached - missed > 1:
        middle = (reached + missed) // 2
        if _large(inside >= values[middle - 1], area) is None:
            missed = middle
        else:
            reached = middle
    return float(values[reached - 1])


def _large(mask: np.ndarray, area: int) -> tuple[int, int, int, int] | None:
    """The box (x, y, width, height) around all 8-connected regions of at least `area` pixels, if there is one."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = stats[1:][stats[1:, cv2.CC_STAT_AREA] >= area]
    if not len(boxes):
        return None
    left, top = boxes[:, :2].min(0)
    right, bottom = (boxes[:, :2] + boxes[:, 2:4]).max(0)
    return int(left), int(top), int(right - left), int(bottom - top)


def keep_regions(mask: np.ndarray, area: int) -> np.ndarray:
    """The mask (H, W) without its 8-connected regions smaller than `area` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= area
    large[0] = False
    return large[labels]


class Box(NamedTuple):
    """A region's bounding box and its number of pixels, all in pixels of the mask."""

    x: int
    y: int
    width: int
    height: int
    area: int


def region_boxes(mask: np.ndarray) -> list[Box]:
    """The box of every 8-connected region of a mask (H, W), largest region first, ties from the top left."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = [Box(*map(int, row)) for row in stats[1:]]
    return sorted(boxes, key=lambda box: (-box.area, box.y, box.x))
