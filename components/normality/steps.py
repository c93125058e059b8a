"""Numbers in one byte each: multiples of a step that they share, at most 127 of it to either side.

A step is a power of two, so all that follows is exact: what is stored is bit for bit what was measured with, and
bfloat16 holds it too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MOST = 127


def step(x: Tensor, dim: int) -> Tensor:
    """The smallest power of two of which no number along `dim` is more than MOST; that dimension is kept, as 1."""
    largest = x.abs().amax(dim, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny * 2**8)
    mantissa, exponent = torch.frexp(largest / MOST)  # largest / MOST = mantissa * 2^exponent, mantissa in [1/2, 1)
    return torch.ldexp(torch.ones_like(largest), exponent - (mantissa == 0.5).int())


def stepped(x: Tensor, dim: int) -> Tensor:
    """float32 x, each number rounded to a whole number of the step that it has with the others along `dim`."""
    size = step(x, dim)
    return (x / size).round() * size


def counted(x: Tensor, size: Tensor) -> np.ndarray:
    """`stepped` numbers in the CPU's memory as int8: how many of their steps each is."""
    return (x / size).round().to(torch.int8).numpy()


def pack(factor: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Lower triangular matrices (P, F, F), stepped by columns: the triangles, int8 (P, F (F + 1) / 2), and the steps,
    float32 (P, F)."""
    factor = factor.cpu()  # not every device knows the exponents of its numbers
    rows, columns = np.tril_indices(factor.shape[-1])
    size = step(factor, 1)
    # NumPy lays the picked entries out the other way round, and safetensors writes memory as it lies.
    return np.ascontiguousarray(counted(factor, size)[:, rows, columns]), size[:, 0].numpy()


def unpack(packed: np.ndarray, size: np.ndarray) -> Tensor:
    """The inverse of `pack`: float32 (P, F, F)."""
    places, features = size.shape
    rows, columns = np.tril_indices(features)
    factor = np.zeros((places, features, features), np.float32)
    factor[:, rows, columns] = packed
    return torch.from_numpy(factor * size[:, None])
