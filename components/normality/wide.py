"""The wide view: how far residuals deviate, a little each, over a large part of an image.

A place's covariance sees what stands out from that place's normal looks. What is slightly wrong over a sixteenth of the
image (uneven light on it, a worn coating, a hairline crack across) stands out nowhere; but the deviations agree, and
their sum over a block of places does. So that one strong defect does not mark the whole block, each place has a bounded
say: with the residual r at a place, and W that makes r W of length 1 on average and no direction more than another,

    v = min(1, REACH / |r W|) r W,      u = mean of v over the places of a block,

and the map is the distance sqrt((u - m)^T S'^-1 (u - m) / F) of each block, with mean m and covariance S' over normal
images. Bounded influence is Huber's (1964).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.device import autocast
from components.normality.steps import pack, unpack
from components.normality.sums import Sums, inverse_factor

BLOCKS = 4  # blocks along each side of the image
REACH = 1.1  # typical lengths of a normal residual: more than this a place cannot say
BORROWED = 100.0  # images' worth of trust in the mean covariance over all blocks


def whitening(sums: Sums) -> Tensor:
    """W (F, F) of the sums of normal residuals at all places: |r W|^2 is 1 on average."""
    second = sums.square.mean(0)
    factor = inverse_factor(second[None])[0].double()
    return (factor / (factor.T @ second @ factor).trace().clamp_min(1e-12).sqrt()).float()


def blocks(residual: Tensor, whitening: Tensor) -> Tensor:
    """u (P, B, F) of residuals (B, F, s, s), P = BLOCKS * BLOCKS."""
    with autocast(residual.device):  # hundreds of places are averaged: half precision is enough for each
        white = torch.einsum("bchw,cd->bdhw", residual, whitening).float()
    held = white * (REACH / white.square().sum(1, keepdim=True).sqrt()).clamp(max=1)
    return F.adaptive_avg_pool2d(held, BLOCKS).flatten(2).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Wide:
    """`whitening` (F, F); `mean` (P, F) and `factor` (P, F, F), lower triangular, of the blocks."""

    whitening: Tensor
    mean: Tensor
    factor: Tensor

    @classmethod
    def fitted(cls, whitening: Tensor, sums: Sums) -> Wide:
        """From the sums of the blocks of normal images."""
        factor = inverse_factor(sums.covariance(), sums.trust(BORROWED))
        return cls(whitening, sums.mean.float().to(whitening.device), factor.to(whitening.device))

    def map(self, residual: Tensor) -> Tensor:
        """The distances of residuals (B, F, s, s), interpolated to each place, (B, s, s)."""
        white = torch.bmm(blocks(residual, self.whitening) - self.mean[:, None], self.factor)
        coarse = white.square().mean(-1).sqrt().t().reshape(-1, 1, BLOCKS, BLOCKS)
        return F.interpolate(coarse, size=residual.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    def tensors(self) -> dict[str, np.ndarray]:
        """What is stored."""
        packed, size = pack(self.factor)
        return {
            "wide.whitening": self.whitening.cpu().numpy(),
            "wide.mean": self.mean.cpu().numpy(),
            "wide.factor": packed,
            "wide.step": size,
        }

    @classmethod
    def restored(cls, stored: dict[str, np.ndarray], device: torch.device) -> Wide:
        """The inverse of `tensors`."""
        whitening = torch.from_numpy(np.array(stored["wide.whitening"])).to(device)
        mean = torch.from_numpy(np.array(stored["wide.mean"])).to(device)
        return cls(whitening, mean, unpack(stored["wide.factor"], stored["wide.step"]).to(device))
