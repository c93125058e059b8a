"""How far an image's residual lies from those of normal images at the same place.

The residual is what should be like that of normal images: f - f_restored over features, waves over pixels
(`Evidence.residual` in components/scoremap.py). From each image's comes off what all its places share, and what normal
images together explain (components/normality/subspace.py). At each of the s x s places what remains, r (F numbers), has
a mean m and a covariance S over normal images (PaDiM; Defard et al. 2021, there of features themselves):

    deviation   = sqrt(mean_c (r - m)_c^2 / V_c),                  V = diag(S), drawn towards its mean over places
    mahalanobis = sqrt((r - m)^T S'^-1 (r - m) / F),               S' = S, drawn towards its mean over places
    layers      = (sqrt(a / A) + sqrt(b / B)) / 2,                 a + b = (r - m)^T S'^-1 (r - m)

where, over features, b is the distance of the fine ones (the B of the layers below stride 16) by themselves, and a
that of the A coarse ones given the fine. All are 1 on average for normal images. The distance as a whole knows which
numbers move together, and so sees faint defects; split, a small defect that only the fine layers see is not lost among
the many coarse ones. With W W^T = S'^-1, W lower triangular and the coarse features first, a and b are parts of one
vector: b = |(r - m)^T W|^2 over its last B entries. `wide` is the view of large blocks of places
(components/normality/wide.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from components.arrays import BATCH
from components.features.backbone import CHANNELS
from components.normality.steps import pack, unpack
from components.normality.subspace import Common, Subspace
from components.normality.sums import Sums, inverse_factor
from components.normality.wide import Wide, blocks, whitening

POOLED = 15.0  # images' worth of trust in the mean covariance over all places; twice that for its diagonal alone
COARSE = CHANNELS[16]  # features of the coarsest layer: they come first
TURNS = 5  # each image is left out of one subspace of so many


def by_place(residual: Tensor) -> Tensor:
    """Residuals (B, F, s, s) to r (P, B, F)."""
    # As it lies the batched product below would take four times as long.
    return residual.flatten(2).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Normality:
    """`mean` (P, F) and `spread` (F,) = the residuals' mean square over places and images; `variance` (P, F);
    `factor` (P, F, F), lower triangular, with factor factor^T = S'^-1. P = s * s places."""

    subspace: Subspace
    mean: Tensor
    spread: Tensor
    variance: Tensor
    factor: Tensor
    wide: Wide

    @classmethod
    def fitted(cls, subspace: Subspace, fine: Sums, wide: Wide) -> Normality:
        """From the sums of the vectors of all places, over normal images.

        Raises ValueError with fewer images than a covariance needs.
        """
        device = subspace.gain.device
        covariance = fine.covariance()
        own = covariance.diagonal(dim1=1, dim2=2)
        variance = torch.lerp(own, own.mean(0), fine.trust(2 * POOLED))
        spread = fine.square.diagonal(dim1=1, dim2=2).mean(0)
        return cls(
            subspace,
            fine.mean.float().to(device),
            spread.clamp_min(1e-12).float().to(device),
            variance.clamp_min(1e-12).float().to(device),
            inverse_factor(covariance, fine.trust(POOLED)).to(device),
            wide,
        )

    def maps(self, residual: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """The maps in `names` of residuals (B, F, s, s), each float (B, s, s)."""
        own = self.subspace.unexplained(residual)
        places = by_place(own)

        @cache
        def white() -> Tensor:
            return torch.bmm(places - self.mean[:, None], self.factor).square()

        def size(squares: Tensor) -> Tensor:
            return squares.mean(-1).sqrt().t().unflatten(1, residual.shape[2:])

        draw = {
            "residual": lambda: size(places.square() / self.spread),
            "deviation": lambda: size((places - self.mean[:, None]).square() / self.variance[:, None]),
            "mahalanobis": lambda: size(white()),
            "layers": lambda: (size(white()[..., :COARSE]) + size(white()[..., COARSE:])) / 2,
            "wide": lambda: self.wide.map(own),
        }
        return {name: draw[name]() for name in names}

    def tensors(self) -> dict[str, np.ndarray]:
        """What is stored: a byte for each number of the triangular factors, the rest in single precision."""
        packed, size = pack(self.factor)
        return self.subspace.tensors() | self.wide.tensors() | {
            "normality.mean": self.mean.cpu().numpy(),
            "normality.spread": self.spread.cpu().numpy(),
            "normality.variance": self.variance.cpu().numpy(),
            "normality.factor": packed,
            "normality.step": size,
        }  # fmt: skip

    @classmethod
    def restored(cls, stored: dict[str, np.ndarray], device: torch.device) -> Normality:
        """The inverse of `tensors`."""
        mean, spread, variance = (
            torch.from_numpy(np.array(stored[f"normality.{key}"])).to(device) for key in ("mean", "spread", "variance")
        )
        factor = unpack(stored["normality.factor"], stored["normality.step"]).to(device)
        return cls(Subspace.restored(stored, device), mean, spread, variance, factor, Wide.restored(stored, device))


def cross_fitted(
    residuals: Tensor, common: Common, fold: Tensor, device: torch.device
) -> tuple[Normality, tuple[Normality, ...]]:
    """From the residuals (N, F, s, s) of normal images, in any precision, what they have in `common`, and the `fold`
    (N,) of each, 0, 1, ...: the normality of all of them, and that of all but each fold's in turn.

    What of an image goes into means and covariances is what is left of it by a subspace of four fifths of the images,
    itself not among them; its siblings may be, as they will be when its part comes again. So a fold's images have no
    part in its subspace and its sums; they have one in what subspaces left of the others, and in the whitening of the
    wide view, which is that of all images.
    Raises ValueError with fewer images than a covariance needs.
    """
    turn, folds = torch.arange(len(residuals)) % TURNS, range(int(fold.max()) + 1)
    of_the_others = [common.subspace(fold != k, device) for k in folds]
    in_turn = of_the_others
    if not torch.equal(fold, turn):
        in_turn = [common.subspace(turn != t, device) for t in range(TURNS)]

    def unexplained(k: int) -> Iterator[Tensor]:
        for t, subspace in enumerate(in_turn):
            for batch in residuals[(fold == k) & (turn == t)].split(BATCH):
                yield subspace.unexplained(batch.float().to(device))

    fine = [_total(by_place(batch) for batch in unexplained(k)) for k in folds]
    everything = reduce(add, fine)
    white = whitening(everything).to(device)
    large = [_total(blocks(batch, white) for batch in unexplained(k)) for k in folds]
    every_block = reduce(add, large)
    whole = Normality.fitted(common.subspace(fold >= 0, device), everything, Wide.fitted(white, every_block))
    without = (
        Normality.fitted(of_the_others[k], everything - fine[k], Wide.fitted(white, every_block - large[k]))
        for k in folds
    )
    return whole, tuple(without)


def _total(batches: Iterator[Tensor]) -> Sums:
    return reduce(add, (Sums.of(batch) for batch in batches))
