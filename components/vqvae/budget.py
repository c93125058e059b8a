"""How many codes a region may have: its richness, the budget that follows from it, and the loss of leaving it.

The source (Cheng et al., "Patch-aware Vector Quantized Codebook Learning for Unsupervised Visual Defect Detection",
arXiv 2501.09187) allocates codes "of varying resolutions based on the context richness of different image regions",
under a budget loss. Neither code nor tables of it are public; what is below is our reading. Dynamic vector
quantisation (Huang et al., CVPR 2023) draws the share of fine codes of a whole batch to one number, L = (mean g - b)^2,
and leaves the regions to the reconstruction; here each region r has a budget of its own, from its richness h_r:

    b_r = min(1, b h_r / mean(h)),    L = mean over r of (p_r - b_r)^2,

p_r the probability with which the router gives r fine codes, b the share of fine codes asked for. As the
reconstruction's gradient always asks for finer codes, a region gets more than its budget where that mends most.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from components import parallel

BINS = 33  # of the histogram, an odd number: one bin is around 0, 8 grey values wide
LEAST = 1e-6  # a mean richness below this is none: every budget is 0


@torch.no_grad()
def richness(x: Tensor, side: int) -> Tensor:
    """Images (B, C, S, S) in [0, 1] to how much there is to tell of each `side` x `side` patch, (B, S / side,
    S / side) in [0, 1].

    The entropy of the patch's histogram over its greatest, log BINS: 0 for a flat patch, near 1 for noise from
    black to white. Histogram of grey values minus the patch's mean, so that neither the lamp nor the place of a bin's
    edge counts.
    """
    grey = x.float().mean(1, keepdim=True)
    patches = F.unfold(grey, side, stride=side).transpose(1, 2)  # (B, R, side * side)
    bins = ((patches - patches.mean(2, keepdim=True) + 0.5) * BINS).long().clamp_(0, BINS - 1)
    counts = torch.zeros(*bins.shape[:2], BINS, device=x.device).scatter_add_(2, bins, torch.ones_like(patches))
    entropy = torch.special.entr(counts / side**2).sum(2) / math.log(BINS)
    return entropy.unflatten(1, (x.shape[2] // side, -1))


def budgets(rich: Tensor, budget: float) -> Tensor:
    """b_r for the richness h_r of a batch's regions (B, r, r), the batch being that of all processes that train
    together: in [0, 1], the richer the more."""
    mean = parallel.total(rich.mean()) / parallel.size()
    return (budget * rich / mean.clamp_min(LEAST)).clamp(max=1)


def budget_loss(share: Tensor, target: Tensor) -> Tensor:
    """L for probabilities of fine codes and budgets, both (B, r, r): 0 where they are equal."""
    return F.mse_loss(share.float(), target)
