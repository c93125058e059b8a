"""Statistics that judge an image must not have been shaped by it: the calibration images in folds.

Scored with statistics that they themselves shaped, normal images look more normal than the next ones will, and the
threshold comes out too low. So each fold of them is looked at with what was fitted on four fifths of all normal images,
while what is packaged is fitted on all, and so explains the next ones a little better: the threshold errs to the high
side. Images of one part are of one fold (components/normality/parts.py), since the next part will have no siblings here
either. The networks were trained on other photographs of these parts, as before: what judges an image are these
statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from components.arrays import BATCH, Images, to_tensor
from components.detector import Detector
from components.errors import UserError
from components.metrics import area_score
from components.negatives import Painter, make
from components.normality.model import cross_fitted
from components.normality.parts import folds_of, same_part
from components.normality.subspace import Common
from components.normality.sums import LEAST
from components.scoremap import examine
from components.scores import OF_NORMALITY, least
from components.settings import NEW
from components.standard import Standard, level, standard

FOLDS = 5
LARGEST = 60000.0  # of a residual that float16 holds


@dataclass(frozen=True)
class HeldOut:
    """The calibration's normal `images` (N, S, S, C), `detectors` that lack those of one fold each, the `fold` (N,) of
    each image, and how many `parts` the normal images show, where that was looked for; `name` begins each line of
    progress."""

    images: np.ndarray
    white: float
    detectors: tuple[Detector, ...]
    fold: np.ndarray
    name: str
    parts: int | None = None

    def maps(self) -> dict[str, np.ndarray]:
        """All base maps float32 (N, S, S) of the images, each by the detector that lacks it."""
        return look(self.detectors, self.images, self.white, f"{self.name} normals", self.fold)

    def painted(
        self, painter: Painter, places: np.ndarray, seed: int, kind: str, names: Iterable[str] | None = None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The base maps in `names` (by default all), float32 (M, S, S), of the M images at `places`, painted; and what
        was painted, bool (M, S, S). Each is looked at with statistics that its original had no part in."""
        negatives, masks = make(self.images[places], painter, self.white, seed)
        words = f"{self.name} {kind}"
        return look(self.detectors, negatives, self.white, words, self.fold[places], names), masks


def fitted(
    detector: Detector, normals: np.ndarray, plain: np.ndarray | Images, white: float, parts: str, name: str
) -> tuple[Detector, HeldOut]:
    """The detector with the statistics of the calibration's `normals` (N, S, S, C) and the other normal images, `plain`
    (M, S, S, C), and what judges the first. Images of one part are held out together when `parts` (settings.Calibrate)
    is `new`. Raises UserError when they are too few.
    """
    device = next(detector.vqvae.parameters()).device
    found = _one_after_the_other(
        len(normals) + len(plain),
        (some for images in (normals, plain) for some in residuals(detector, images, white, f"{name} residuals")),
    )
    common = Common.of(batch.float() for batch in found.split(BATCH))
    part, count = torch.arange(len(found)), None
    if parts == NEW:
        part = same_part(common.gram, len(found) / FOLDS)
        count = int(part.max()) + 1
        print(f"{name}: {len(found)} normal images of {count} parts", flush=True)
    fold = folds_of(part, FOLDS)
    if len(found) - int(fold.bincount().max()) < LEAST:
        raise UserError(f"{name}: {len(found)} normal images are too few to judge each by the others; add some")
    whole, without = cross_fitted(found, common, fold, device)
    detectors = tuple(replace(detector, normality=normality) for normality in without)
    return replace(detector, normality=whole), HeldOut(
        normals, white, detectors, fold[: len(normals)].numpy(), name, count
    )


def _one_after_the_other(count: int, batches: Iterator[torch.Tensor]) -> torch.Tensor:
    """The `count` rows of all batches, none of which is in memory twice."""
    rows, at = torch.empty(0), 0
    for some in batches:
        rows = rows if at else some.new_empty(count, *some.shape[1:])
        rows[at : at + len(some)] = some
        at += len(some)
    return rows


def residuals(detector: Detector, images: np.ndarray | Images, white: float, name: str) -> Iterator[torch.Tensor]:
    """The residuals of images (components.scoremap), batch by batch: float16 (B, F, s, s), in the CPU's memory.

    Raises UserError when they are no numbers.
    """
    device = next(detector.vqvae.parameters()).device
    for i in range(0, len(images), BATCH):
        x = to_tensor(images[i : i + BATCH], white, device)
        residual = examine(detector.vqvae, detector.prior, x, detector.eta, detector.neighbour_rule).residual.cpu()
        if not residual.isfinite().all():
            raise UserError(f"{name}: what normal images differ by is not finite; train the category again")
        yield residual.clamp(-LARGEST, LARGEST).half()
        print(f"{name} {min(i + BATCH, len(images))}/{len(images)}", flush=True)


def look(
    detectors: Sequence[Detector],
    images: np.ndarray,
    white: float,
    name: str,
    fold: np.ndarray | None = None,
    names: Iterable[str] | None = None,
) -> dict[str, np.ndarray]:
    """The base maps in `names` (by default all), float32 (N, S, S), of images (N, S, S, C), each by the detector of its
    `fold` (N,); by default all by the first."""
    device = next(detectors[0].vqvae.parameters()).device
    maps: dict[str, np.ndarray] = {}
    done = 0
    at = np.zeros(len(images), int) if fold is None else fold
    for k, detector in enumerate(detectors):
        indices = np.flatnonzero(at == k)
        for some in np.array_split(indices, -(-len(indices) // BATCH)) if len(indices) else ():
            for key, value in detector.look(to_tensor(images[some], white, device), names)[0].items():
                maps.setdefault(key, np.empty((len(images), *value.shape[1:]), np.float32))[some] = value
            done += len(some)
            print(f"{name} {done}/{len(images)}", flush=True)
    return maps


def standards(detector: Detector, maps: dict[str, np.ndarray]) -> dict[str, Standard]:
    """Each map's standard over normal images: one for all places over features and of what is a distance from normal
    images already, else place by place."""

    def one(name: str, m: np.ndarray) -> Standard:
        alike = detector.over_features or name in OF_NORMALITY
        return level(m) if alike else standard(m, detector.prior.grid, least(name))

    return {name: one(name, m) for name, m in maps.items()}


def image_scores(detector: Detector, maps: dict[str, np.ndarray], score: str, area: int) -> list[float]:
    """Image scores of the normal images from their held-out `maps`, each with standards fitted without a fifth of them,
    itself among these."""
    count = len(next(iter(maps.values())))
    scores = np.zeros(count)
    for fold in range(min(FOLDS, count)):
        inside = np.arange(count) % FOLDS == fold
        fitted = standards(detector, {name: maps[name][~inside] for name in detector.scores[score]})
        scored = replace(detector, standards=fitted).score({name: m[inside] for name, m in maps.items()}, score)
        scores[inside] = [area_score(m, area) for m in scored]
    return scores.tolist()
