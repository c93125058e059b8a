"""How far a residual of features lies from those of normal images at the same place.

At each of the s x s places the residual r = f - f_restored (F numbers) of normal images has a mean m and a
covariance S (PaDiM; Defard et al. 2021, there of the features themselves):

    deviation   = sqrt(mean_c (r - m)_c^2 / V_c),                  V = diag(S), drawn towards its mean over places
    mahalanobis = sqrt((r - m)^T S'^-1 (r - m) / F),               S' = S, drawn towards its mean over places

Both are 1 on average for normal images. The second knows which features move together, and so sees faint
defects; the first overlaps large ones better.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHRUNK = 0.05  # the part of a place's covariance that is the mean over all places
RIDGE = 1e-3  # added to the diagonal, share of its mean
LEAST = 4  # residuals that a covariance needs at least to say anything


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
        batch, features, height, width = residual.shape
        places = residual.permute(2, 3, 0, 1).reshape(height * width, batch, features)
        draw = {
            "residual": lambda: places.square() / self.spread,
            "deviation": lambda: (places - self.mean[:, None]).square() / self.variance[:, None],
            "mahalanobis": lambda: torch.bmm(places - self.mean[:, None], self.factor).square(),
        }
        return {name: draw[name]().mean(-1).sqrt().t().reshape(batch, height, width) for name in names}

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
            places = batch.permute(2, 3, 0, 1).flatten(0, 1).cpu()
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
        drawn = (1 - SHRUNK) * covariance + SHRUNK * pooled + ridge
        # numpy: torch's batched inverse fails in some builds of MKL for matrices of this size.
        factor = np.linalg.cholesky(np.linalg.inv(drawn.numpy())).astype(np.float16).astype(np.float32)
        own = covariance.diagonal(dim1=1, dim2=2)
        variance = (1 - 2 * SHRUNK) * own + 2 * SHRUNK * own.mean(0)
        spread = square.diagonal(dim1=1, dim2=2).mean(0)
        return Normality(
            mean.float().to(device),
            spread.clamp_min(1e-12).float().to(device),
            variance.clamp_min(1e-12).float().to(device),
            torch.from_numpy(factor).to(device),
        )
