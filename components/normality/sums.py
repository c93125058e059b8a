"""Means and covariances of vectors at each of P places, from sums that can be added and taken away again: so images are
judged by statistics without them, for the price of one pass over all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.normality.steps import stepped

RIDGE = 1e-2  # added to a covariance's diagonal, share of its mean
FLOOR = 1e-4  # the least that is added: images that are all the same have no covariance but rounding errors
LEAST = 4  # images that a covariance needs at least to say anything


@dataclass(frozen=True)
class Sums:
    """Of `count` images: the sum of their vectors, `total` (P, F), in double precision, and of their outer `products`
    (P, F, F)."""

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Sums:
        """Of vectors (P, B, F) of B images."""
        own = vectors.cpu()
        return cls(own.shape[1], own.double().sum(1), torch.bmm(own.transpose(1, 2), own))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.total + other.total, self.products + other.products)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.count - other.count, self.total - other.total, self.products - other.products)

    @property
    def mean(self) -> Tensor:
        """(P, F), in double precision."""
        return self.total / self.count

    @property
    def square(self) -> Tensor:
        """The mean of the outer products, (P, F, F), in double precision."""
        return self.products.double() / self.count

    def covariance(self) -> Tensor:
        """(P, F, F), in double precision. Raises ValueError with fewer images than LEAST."""
        if self.count < LEAST:
            raise ValueError(f"{self.count} normal images are too few for a covariance; {LEAST} are needed")
        return self.square - self.mean[:, :, None] * self.mean[:, None, :]

    def trust(self, borrowed: float) -> float:
        """What share of a place's statistics comes from all places, when these count as much as `borrowed` images."""
        return borrowed / (self.count + borrowed)


def inverse_factor(covariance: Tensor, trust: float = 0.0) -> Tensor:
    """W (P, F, F), lower triangular, with W W^T = S'^-1, in the steps of `components.normality.steps`: S' is the
    `covariance` (P, F, F) drawn towards its mean over the places by `trust` in 0..1, and a ridge."""
    pooled = covariance.mean(0)
    ridge = max(RIDGE * float(pooled.diagonal().mean()), FLOOR) * torch.eye(len(pooled), dtype=pooled.dtype)
    drawn = torch.lerp(covariance, pooled, trust) + ridge
    # numpy: torch's batched inverse fails in some builds of MKL for matrices of this size.
    return stepped(torch.from_numpy(np.linalg.cholesky(np.linalg.inv(drawn.numpy()))).float(), 1)
