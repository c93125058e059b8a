"""The differential mode: what differs between a test image and golden references, in codes and in features.

The usual mode asks whether an image is likely by itself. With a trusted picture of the same part beside it, a
place may also be judged by what stands there in that picture. Three grids are compared, each position with the
nearest of the reference's positions at most REACH cells away, for no two parts lie exactly alike:

    codes       distance of the code vectors, in spacings of the codebook (the median distance from a code to
                its nearest other one)
    features    distance of the encoder's vectors before they become codes, in the same unit
    likelihood  by how many nats the test image's code is less likely than the reference's

Each is taken relative to the pair's own median and spread, so that a lamp that moved counts for little, and the
mean of the three is the score: about 1 where the two differ as much as they do elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.arrays import unit
from components.inspector import Inspector
from components.metrics import area_score, keep_regions
from components.scoremap import FLOOR, SMOOTHING

REACH = 1  # cells
THRESHOLD = 3.0  # spreads; above what pairs of normal training images showed (docs/inspection-page.md)
SPREAD = 1.4826  # from the median absolute deviation to the standard deviation of a normal distribution


@dataclass(frozen=True)
class Look:
    """One image's grids: `vectors` and `features` (D, s, s), `surprise` (s, s) = -log p(code | restored before)."""

    vectors: Tensor
    features: Tensor
    surprise: Tensor


@dataclass(frozen=True)
class Difference:
    """What differs, at S x S pixels over s x s codes: `score_map` float32 (S, S), `mask` bool (S, S) its regions
    above the threshold, `score` the highest level that a region of the minimum area reaches, `changed` the share
    of codes that occur nowhere near in the reference."""

    score: float
    score_map: np.ndarray
    mask: np.ndarray
    changed: float
    differs: bool


def compare(
    inspector: Inspector, test: np.ndarray, references: Sequence[np.ndarray], threshold: float = THRESHOLD
) -> Difference:
    """What differs in a test image from every one of its references, all (H, W, 1 or 3) uint8 or uint16."""
    first, *others = look(inspector, [test, *references])
    vectors = inspector.detector.vqvae.codebook.vectors
    return difference(first, others, vectors, inspector.image_size, threshold, inspector.min_area)


@torch.no_grad()
def look(inspector: Inspector, images: Sequence[np.ndarray]) -> list[Look]:
    """The grids of each image, by the inspector's own networks."""
    white, detector = float(inspector.calibration["white"]), inspector.detector
    stacked = np.stack([unit(image, inspector.channels, white, inspector.image_size) for image in images])
    x = torch.from_numpy(stacked).to(inspector.device).permute(0, 3, 1, 2)
    _, evidence = detector.look(x, ())
    vectors = F.embedding(evidence.codes, detector.vqvae.codebook.vectors).permute(0, 3, 1, 2)
    surprise = -evidence.restoration().likelihood_restored.clamp_min(FLOOR).log()
    features = detector.vqvae.encoder(evidence.features).float()
    return [Look(*one) for one in zip(vectors, features, surprise, strict=True)]


def difference(
    test: Look, references: Sequence[Look], vectors: Tensor, size: int, threshold: float, min_area: int
) -> Difference:
    """What differs from every reference: a place counts only as far as the most similar of them is away."""
    gap = spacing(vectors)
    grids = []
    changes = []
    for reference in references:
        codes = nearest(test.vectors, reference.vectors) / gap
        features = nearest(test.features, reference.features) / gap
        surprise = (test.surprise - _most(reference.surprise)).clamp_min(0)
        grids.append(torch.stack([relative(one) for one in (codes, features, surprise)]).mean(0))
        changes.append(float((codes > 0).float().mean()))
    score_map = enlarge(torch.stack(grids).amin(0), size)
    score = area_score(score_map, min_area)
    mask = keep_regions(score_map > threshold, min_area)
    return Difference(score, score_map, mask, min(changes), score > threshold)


def spacing(vectors: Tensor) -> float:
    """The median distance from a code vector (K, D) to its nearest other one."""
    distance = torch.cdist(vectors.float(), vectors.float())
    distance.fill_diagonal_(float("inf"))
    return max(float(distance.amin(1).median()), 1e-6)


def nearest(test: Tensor, reference: Tensor) -> Tensor:
    """Distance of each vector of a grid (D, s, s) to the nearest of the reference's at most REACH cells away."""
    side = 2 * REACH + 1
    near = F.unfold(F.pad(reference[None], [REACH] * 4, mode="replicate"), side)
    near = near.view(len(reference), side * side, *reference.shape[1:])
    return (test[:, None] - near).square().sum(0).sqrt().amin(0)


def _most(surprise: Tensor) -> Tensor:
    """The highest surprise at most REACH cells away: a seam that is rare in both pictures is no difference."""
    return F.max_pool2d(surprise[None, None], 2 * REACH + 1, 1, REACH)[0, 0]


def relative(grid: Tensor) -> Tensor:
    """(grid - median) / spread, where the spread is at least 1, the grid's own unit; nothing below 0."""
    middle = grid.median()
    spread = SPREAD * (grid - middle).abs().median()
    return ((grid - middle) / spread.clamp_min(1)).clamp_min(0)


def enlarge(grid: Tensor, size: int) -> np.ndarray:
    """(s, s) to float32 (S, S), smoothed as the score maps are."""
    up = F.interpolate(grid[None, None].float(), size=(size, size), mode="bilinear", align_corners=False)
    return cv2.GaussianBlur(up[0, 0].cpu().numpy(), (0, 0), SMOOTHING * size / grid.shape[-1])
