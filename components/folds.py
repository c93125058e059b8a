"""Statistics that judge an image must not have been shaped by it: the calibration images in folds.

Scored with statistics that they themselves shaped, normal images look more normal than the next ones will, and the
threshold comes out too low. So each fold of them is looked at with what was fitted on four fifths of all normal images,
while what is packaged is fitted on all, and so explains the next ones a little better: the threshold errs to the high
side. It errs to the low side where several images are of one part: folds do not know of parts (docs/adr/0006).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from components.arrays import Images, to_tensor
from components.detector import Detector
from components.errors import UserError
from components.features.model import FEATURES
from components.features.normality import cross_fitted
from components.metrics import area_score
from components.scoremap import examine
from components.scores import least
from components.standard import Standard, level, standard

BATCH = 16
FOLDS = 5
LARGEST = 60000.0  # of a residual that float16 holds


def fitted(
    detector: Detector, normals: np.ndarray, plain: np.ndarray | Images, white: float, name: str
) -> tuple[Detector, tuple[Detector, ...]]:
    """The detector with the statistics of normal images, and for each fold of `normals` (N, S, S, C) one without its
    images and without a fifth of `plain` (M, S, S, C), the normal images of the other parts. Over pixels there is
    nothing to fit here, and one detector for all folds.
    """
    if not detector.over_features:
        return detector, (detector,)
    device, grid = next(detector.vqvae.parameters()).device, detector.prior.grid
    found = torch.empty(len(normals) + len(plain), FEATURES, grid, grid, dtype=torch.half)
    for images, rows in ((normals, found[: len(normals)]), (plain, found[len(normals) :])):
        for i, some in enumerate(residuals(detector, images, white, f"{name} residuals")):
            rows[i * BATCH : i * BATCH + len(some)] = some
    whole, parts = cross_fitted(found, FOLDS, device)
    return replace(detector, normality=whole), tuple(replace(detector, normality=part) for part in parts)


def residuals(detector: Detector, images: np.ndarray | Images, white: float, name: str) -> Iterator[torch.Tensor]:
    """Features minus those of the restored codes, batch by batch: float16 (B, F, s, s), in the CPU's memory.

    Raises UserError when they are no numbers.
    """
    device = next(detector.vqvae.parameters()).device
    for i in range(0, len(images), BATCH):
        x = to_tensor(images[i : i + BATCH], white, device)
        residual = examine(detector.vqvae, detector.prior, x, detector.eta, detector.neighbour_rule).residual.cpu()
        if not residual.isfinite().all():
            raise UserError(f"{name}: the features of normal images are not finite; train the category again")
        yield residual.clamp(-LARGEST, LARGEST).half()
        print(f"{name} {min(i + BATCH, len(images))}/{len(images)}", flush=True)


def look(
    detectors: Sequence[Detector], images: np.ndarray, white: float, name: str, places: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Base maps float32 (N, S, S) of images (N, S, S, C), each by the detector of its place modulo their number.

    `places` (N,) are those of a painted image's original among the normals, by default 0..N-1: it is looked at with
    statistics that its original had no part in.
    """
    device = next(detectors[0].vqvae.parameters()).device
    maps: dict[str, np.ndarray] = {}
    done = 0
    at = np.arange(len(images)) if places is None else places
    for k, detector in enumerate(detectors):
        indices = np.flatnonzero(at % len(detectors) == k)
        for some in np.array_split(indices, -(-len(indices) // BATCH)) if len(indices) else ():
            for key, value in detector.look(to_tensor(images[some], white, device))[0].items():
                maps.setdefault(key, np.empty((len(images), *value.shape[1:]), np.float32))[some] = value
            done += len(some)
            print(f"{name} {done}/{len(images)}", flush=True)
    return maps


def standards(detector: Detector, maps: dict[str, np.ndarray]) -> dict[str, Standard]:
    """Each map's standard over normal images: place by place over pixels, one for all places over features."""
    if detector.over_features:
        return {name: level(m) for name, m in maps.items()}
    return {name: standard(m, detector.prior.grid, least(name)) for name, m in maps.items()}


def image_scores(detector: Detector, maps: dict[str, np.ndarray], score: str, area: int) -> list[float]:
    """Image scores of the normal images from their held-out `maps`, each with standards fitted without its fold."""
    count = len(next(iter(maps.values())))
    scores = np.zeros(count)
    for fold in range(min(FOLDS, count)):
        inside = np.arange(count) % FOLDS == fold
        fitted = standards(detector, {name: maps[name][~inside] for name in detector.scores[score]})
        scored = replace(detector, standards=fitted).score({name: m[inside] for name, m in maps.items()}, score)
        scores[inside] = [area_score(m, area) for m in scored]
    return scores.tolist()
