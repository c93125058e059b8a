"""Means and covariances of vectors at each of P places, from sums that can be added and taken away again: so images are
judged by statistics without them, for the price of one pass over all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RIDGE = 1e-2  # added to a covariance's diagonal, share of its mean
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
    """W (P, F, F), lower triangular, with W W^T = S'^-1, as half precision keeps it: S' is the `covariance` (P, F, F)
    drawn towards its mean over the places by `trust` in 0..1, and a ridge."""
    pooled = covariance.mean(0)
    ridge = RIDGE * pooled.diagonal().mean() * torch.eye(len(pooled), dtype=pooled.dtype)
    drawn = torch.lerp(covariance, pooled, trust) + ridge
    # numpy: torch's batched inverse fails in some builds of MKL for matrices of this size.
    factor = np.linalg.cholesky(np.linalg.inv(drawn.numpy()))
    return torch.from_numpy(factor.astype(np.float16).astype(np.float32))


def pack(factor: Tensor) -> np.ndarray:
    """The lower triangles of (P, F, F), float16 (P, F (F + 1) / 2)."""
    rows, columns = np.tril_indices(factor.shape[-1])
    # NumPy lays the picked entries out the other way round, and safetensors writes memory as it lies.
    return np.ascontiguousarray(factor.cpu().numpy()[:, rows, columns], dtype=np.float16)


def unpack(packed: np.ndarray, features: int) -> Tensor:
    """The inverse of `pack`: float32 (P, F, F)."""
    rows, columns = np.tril_indices(features)
    factor = np.zeros((len(packed), features, features), np.float32)
    factor[:, rows, columns] = packed
    return torch.from_numpy(factor)
