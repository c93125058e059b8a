"""How far a residual of features lies from those of normal images at the same place.

From each image's residual f - f_restored its median over the places is taken first, feature by feature: what most
of an image shares (the lamp, the exposure, the batch's colour) is no defect. At each of the s x s places what
remains, r (F numbers), has a mean m and a covariance S over normal images (PaDiM; Defard et al. 2021, there of the
features themselves):

    deviation   = sqrt(mean_c (r - m)_c^2 / V_c),                  V = diag(S), drawn towards its mean over places
    mahalanobis = sqrt((r - m)^T S'^-1 (r - m) / F),               S' = S, drawn towards its mean over places
    layers      = (sqrt(a / A) + sqrt(b / B)) / 2,                 a + b = (r - m)^T S'^-1 (r - m)

where b is the distance of the fine features (the B of the layers below stride 16) by themselves, and a that of the
A coarse ones given the fine. All are 1 on average for normal images. The distance as a whole knows which features
move together, and so sees faint defects; split, a small defect that only the fine layers see is not lost among the
many coarse ones. With W W^T = S'^-1, W lower triangular and the coarse features first, a and b are parts of one
vector: b = |(r - m)^T W|^2 over its last B entries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from components.features.backbone import CHANNELS
from components.features.sums import Sums, inverse_factor, pack, unpack
from components.features.wide import Wide, blocks

POOLED = 15.0  # images' worth of trust in the mean covariance over all places; twice that for its diagonal alone
COARSE = CHANNELS[16]  # features of the coarsest layer: they come first


def by_place(residual: Tensor) -> Tensor:
    """Residuals (B, F, s, s) to r (P, B, F): without each image's median."""
    flat = residual.flatten(2)
    # As it lies the batched product below would take four times as long.
    return (flat - flat.median(2, keepdim=True).values).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Normality:
    """`mean` (P, F) and `spread` (F,) = the residuals' mean square over places and images; `variance` (P, F);
    `factor` (P, F, F), lower triangular, with factor factor^T = S'^-1. P = s * s places. `wide` is the view of large
    blocks of them; models packaged before there was one have none."""

    mean: Tensor
    spread: Tensor
    variance: Tensor
    factor: Tensor
    wide: Wide | None = None

    def maps(self, residual: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """The maps in `names` of residuals (B, F, s, s), each float (B, s, s)."""
        batch, _, height, width = residual.shape
        places = by_place(residual)

        @cache
        def white() -> Tensor:
            return torch.bmm(places - self.mean[:, None], self.factor).square()

        def size(squares: Tensor) -> Tensor:
            return squares.mean(-1).sqrt()

        draw = {
            "residual": lambda: size(places.square() / self.spread),
            "deviation": lambda: size((places - self.mean[:, None]).square() / self.variance[:, None]),
            "mahalanobis": lambda: size(white()),
            "layers": lambda: (size(white()[..., :COARSE]) + size(white()[..., COARSE:])) / 2,
        }
        drawn = {name: draw[name]().t().reshape(batch, height, width) for name in names if name in draw}
        return drawn | ({"wide": self.wide.map(residual)} if self.wide and "wide" in names else {})

    def tensors(self) -> dict[str, np.ndarray]:
        """What is stored: the triangular factors in half precision, the rest in single."""
        return {
            "normality.mean": self.mean.cpu().numpy(),
            "normality.spread": self.spread.cpu().numpy(),
            "normality.variance": self.variance.cpu().numpy(),
            "normality.factor": pack(self.factor),
        } | (self.wide.tensors() if self.wide else {})

    @classmethod
    def restored(cls, stored: dict[str, np.ndarray], device: torch.device) -> Normality:
        """The inverse of `tensors`."""
        mean, spread, variance = (
            torch.from_numpy(np.array(stored[f"normality.{key}"])).to(device) for key in ("mean", "spread", "variance")
        )
        factor = unpack(stored["normality.factor"], len(spread)).to(device)
        wide = Wide.restored(stored, device) if "wide.whitening" in stored else None
        return cls(mean, spread, variance, factor, wide)


@dataclass(frozen=True)
class Seen:
    """What a Normality is made from: sums over normal images of the vectors of all places and, with the `whitening`
    (F, F), of those of the wide view's blocks."""

    fine: Sums
    wide: Sums | None
    whitening: Tensor | None

    @classmethod
    def of(cls, residuals: Iterable[Tensor], whitening: Tensor | None = None) -> Seen:
        """Of batches (B, F, s, s), with one batch in memory at a time. Raises ValueError without any."""
        found: Seen | None = None
        for batch in residuals:
            wide = None if whitening is None else Sums.of(blocks(batch, whitening))
            one = cls(Sums.of(by_place(batch)), wide, whitening)
            found = one if found is None else found + one
        if found is None:
            raise ValueError("there is no residual to learn from")
        return found

    def __add__(self, other: Seen) -> Seen:
        wide = self.wide + other.wide if self.wide and other.wide else None
        return Seen(self.fine + other.fine, wide, self.whitening)

    def __sub__(self, other: Seen) -> Seen:
        wide = self.wide - other.wide if self.wide and other.wide else None
        return Seen(self.fine - other.fine, wide, self.whitening)

    def normality(self, device: torch.device) -> Normality:
        """Raises ValueError with fewer images than a covariance needs."""
        covariance = self.fine.covariance()
        factor = inverse_factor(covariance, self.fine.trust(POOLED))
        own = covariance.diagonal(dim1=1, dim2=2)
        variance = torch.lerp(own, own.mean(0), self.fine.trust(2 * POOLED))
        spread = self.fine.square.diagonal(dim1=1, dim2=2).mean(0)
        wide = None
        if self.wide is not None and self.whitening is not None:
            wide = Wide.fitted(self.whitening, self.wide, device)
        return Normality(
            self.fine.mean.float().to(device),
            spread.clamp_min(1e-12).float().to(device),
            variance.clamp_min(1e-12).float().to(device),
            factor.to(device),
            wide,
        )
