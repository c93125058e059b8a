"""What normal images have in common: the subspace of their residuals' principal components.

Normal parts differ from each other in a few ways that concern the whole image: the light, the batch, the grain of one
tile photographed twice. A place's covariance sees such a difference at its place only, and takes it for a defect's
size. All places together tell them apart: a combination of normal images explains the one and not the other. With x a
residual, its median over the places taken off and averaged over 2 x 2 of them, and v_k, l_k the K leading eigenvectors
and eigenvalues of sum_i x_i x_i^T over normal images,

    x' = x - sum_k g_k v_k v_k^T x,          g_k = l_k / (l_k + RIDGE mean_i |x_i|^2)

is what no combination of normal images explains (the eigenimages of Turk & Pentland 1991, with ridge regression's
shrinkage). What is taken off is interpolated to all places.

An image that helped to make a subspace is explained by itself. So whatever is measured of normal images is measured
with a subspace of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.device import fast_dtype
from components.normality.steps import counted, step, stepped

SIDE = 16  # places along each side, at most, of what is explained
COMPONENTS = 256
RIDGE = 0.1  # share of an image's mean energy
NOTHING = 1e-6  # share of it below which a component is the arithmetic's own


def without_median(residual: Tensor) -> Tensor:
    """Residuals (B, F, s, s) less each image's median over the places, feature by feature: what most of an image shares
    (the lamp, the exposure, the batch's colour) is no defect."""
    flat = residual.flatten(2)
    if residual.device.type == "cpu":  # a quarter of the time of torch's
        middle = (flat.shape[2] - 1) // 2
        median = torch.from_numpy(np.partition(flat.numpy(), middle, axis=2)[..., middle])
    else:
        median = flat.median(2).values
    return residual - median[..., None, None]


def pooled(residual: Tensor) -> Tensor:
    """Residuals (B, F, s, s) averaged to (B, F, S, S), S = min(s, SIDE)."""
    return F.adaptive_avg_pool2d(residual, min(residual.shape[-1], SIDE))


@dataclass(frozen=True)
class Subspace:
    """`components` (K, D), orthonormal rows in the fast precision of their device, and their `gain` (K,) in 0..1;
    D = F * S * S, the numbers of a `pooled` residual."""

    components: Tensor
    gain: Tensor

    def unexplained(self, residual: Tensor) -> Tensor:
        """Residuals (B, F, s, s) less their medians and less what normal images have in common."""
        own = without_median(residual)
        seen = pooled(own)
        x = seen.flatten(1).to(self.components.dtype)
        said = (x @ self.components.T * self.gain.to(x.dtype)) @ self.components
        return own - F.interpolate(said.float().view_as(seen), size=own.shape[2:], mode="bilinear", align_corners=False)

    def tensors(self) -> dict[str, np.ndarray]:
        """What is stored: a byte for each number of the components."""
        components = self.components.cpu().float()
        size = step(components, 1)
        return {
            "subspace.gain": self.gain.cpu().numpy(),
            "subspace.components": counted(components, size),
            "subspace.step": size[:, 0].numpy(),
        }

    @classmethod
    def restored(cls, stored: dict[str, np.ndarray], device: torch.device) -> Subspace:
        """The inverse of `tensors`."""
        gain, components, size = (
            torch.from_numpy(np.array(stored[f"subspace.{key}"])).to(device) for key in ("gain", "components", "step")
        )
        return cls((components * size[:, None]).to(fast_dtype(device)), gain)


@dataclass(frozen=True)
class Common:
    """The `vectors` (N, D) of normal images and their inner products, `gram` (N, N): what subspaces are made of."""

    vectors: Tensor
    gram: Tensor

    @classmethod
    def of(cls, residuals: Iterable[Tensor]) -> Common:
        """Of batches (B, F, s, s)."""
        vectors = torch.cat([pooled(without_median(batch)).flatten(1) for batch in residuals])
        return cls(vectors, vectors @ vectors.T)

    def subspace(self, chosen: Tensor, device: torch.device) -> Subspace:
        """That of the images which are True in the mask (N,), on the `device`.

        The eigenvectors v of X^T X are those of the Gram matrix, X X^T u = l u, by v = X^T u / sqrt(l).
        """
        gram = self.gram[chosen][:, chosen].double()
        energy = gram.diagonal().mean()
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values[-COMPONENTS:], vectors[:, -COMPONENTS:]
        kept = values > NOTHING * energy
        weights = torch.zeros(len(self.vectors), int(kept.sum()), dtype=torch.double)
        weights[chosen] = vectors[:, kept] / values[kept].sqrt()
        components = stepped(weights.float().T @ self.vectors, 1)
        gain = (values / (values + RIDGE * energy))[kept].float()
        return Subspace(components.to(device, fast_dtype(device)), gain.to(device))
