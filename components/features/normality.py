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

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from components.features.backbone import CHANNELS

POOLED = 15.0  # images' worth of trust in the mean covariance over all places; twice that for its diagonal alone
RIDGE = 1e-2  # added to the diagonal, share of its mean
COARSE = CHANNELS[16]  # features of the coarsest layer: they come first
LEAST = 4  # residuals that a covariance needs at least to say anything


def by_place(residual: Tensor) -> Tensor:
    """Residuals (B, F, s, s) to r (P, B, F): without each image's median."""
    flat = residual.flatten(2)
    return (flat - flat.median(2, keepdim=True).values).permute(2, 0, 1)


@dataclass(frozen=True)
class Normality:
    """`mean` (P, F) and `spread` (F,) = the residuals' mean square over places and images; `variance` (P, F);
    `factor` (P, F, F), lower triangular, with factor factor^T = S'^-1. P = s * s places."""

    mean: Tensor
    spread: Tensor
    variance: Tensor
    factor: Tensor

    def maps(self, residual: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
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
        return {name: draw[name]().t().reshape(batch, height, width) for name in names}

    def tensors(self) -> dict[str, np.ndarray]:
        """What is stored: the triangular factors in half precision, the rest in single."""
        rows, columns = np.tril_indices(self.factor.shape[1])
        return {
            "normality.mean": self.mean.cpu().numpy(),
            "normality.spread": self.spread.cpu().numpy(),
            "normality.variance": self.variance.cpu().numpy(),
            # NumPy lays the picked entries out the other way round, and safetensors writes memory as it lies.
            "normality.factor": np.ascontiguousarray(self.factor.cpu().numpy()[:, rows, columns], dtype=np.float16),
        }

    @classmethod
    def restored(cls, stored: dict[str, np.ndarray], device: torch.device) -> Normality:
        """The inverse of `tensors`."""
        packed = stored["normality.factor"]
        features = stored["normality.spread"].shape[0]
        rows, columns = np.tril_indices(features)
        factor = np.zeros((len(packed), features, features), np.float32)
        factor[:, rows, columns] = packed
        mean, spread, variance = (
            torch.from_numpy(np.array(stored[f"normality.{key}"])).to(device) for key in ("mean", "spread", "variance")
        )
        return cls(mean, spread, variance, torch.from_numpy(factor).to(device))


@dataclass(frozen=True)
class Sums:
    """What a Normality is made from: residuals of `count` normal images, their sum `total` (P, F) in double
    precision and the sum of their outer `products` (P, F, F). Sums of other images may be added, and taken away
    again: so a threshold's images are judged by statistics without them, for the price of one pass over all."""

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, residuals: Iterable[Tensor]) -> Sums:
        """Of batches (B, F, s, s), at least one, with one batch in memory at a time."""
        found: Sums | None = None
        for batch in residuals:
            places = by_place(batch).cpu()
            one = cls(len(batch), places.double().sum(1), torch.bmm(places.transpose(1, 2), places))
            found = one if found is None else found + one
        if found is None:
            raise ValueError("there is no residual to learn from")
        return found

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.total + other.total, self.products + other.products)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.count - other.count, self.total - other.total, self.products - other.products)

    def normality(self, device: torch.device) -> Normality:
        """Raises ValueError with fewer images than LEAST."""
        if self.count < LEAST:
            raise ValueError(f"{self.count} normal images are too few for a covariance; {LEAST} are needed")
        mean = self.total / self.count
        square = self.products.double() / self.count
        covariance = square - mean[:, :, None] * mean[:, None, :]
        pooled = covariance.mean(0)
        ridge = RIDGE * pooled.diagonal().mean() * torch.eye(len(pooled), dtype=pooled.dtype)
        drawn = torch.lerp(covariance, pooled, _trust(self.count, POOLED)) + ridge
        # numpy: torch's batched inverse fails in some builds of MKL for matrices of this size.
        factor = np.linalg.cholesky(np.linalg.inv(drawn.numpy())).astype(np.float16).astype(np.float32)
        own = covariance.diagonal(dim1=1, dim2=2)
        variance = torch.lerp(own, own.mean(0), _trust(self.count, 2 * POOLED))
        spread = square.diagonal(dim1=1, dim2=2).mean(0)
        return Normality(
            mean.float().to(device),
            spread.clamp_min(1e-12).float().to(device),
            variance.clamp_min(1e-12).float().to(device),
            torch.from_numpy(factor).to(device),
        )


def _trust(count: int, pooled: float) -> float:
    return pooled / (count + pooled)
