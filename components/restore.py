"""Restoration: Eq. 5's resampling in raster order, reached as a fixed point in a few batched passes.

Reading of Eq. 5. Let z be the original codes, r the restored ones and p the prior. One pass over z gives
p(z_i | z_<i); I_i is its minimum over the neighbours E, SW, S and SE that exist (the last position has
none and stands on its own likelihood). Then, in raster order,

    r_i = argmax_k p(k | r_<i)   if p(z_i | r_<i) < eta and I_i < eta,   else z_i.

r_i depends on r_<i alone. So the raster result is the only grid that the rule, applied everywhere at once
with r as context, maps to itself: position 0 is right after one pass, and position i once all before it
are. Iterating until nothing changes gives the same codes as the loop, in far fewer passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.prior.pixelsnail import PixelSNAIL, Rows, reorder


@dataclass(frozen=True)
class Restoration:
    """What came of it, for B grids of H x W codes out of K.

    `codes` int64 (B, H, W): restored. `likelihood` float (B, H, W): p(z_i | z_<i) of the original codes
    after the original ones. `likelihood_restored`: p(z_i | r_<i), after the restored ones. `logits`
    (B, K, H, W): the prior's, after the restored codes. `passes`: forward passes over any image.
    """

    codes: Tensor
    likelihood: Tensor
    likelihood_restored: Tensor
    logits: Tensor
    passes: int


def own(logits: Tensor, codes: Tensor) -> Tensor:
    """Likelihood in [0, 1] of `codes` (B, h, W) under `logits` (B, K, h, W)."""
    chosen = logits.gather(1, codes[:, None]).squeeze(1)
    return (chosen - logits.logsumexp(1)).exp()


def lower_neighbours(likelihood: Tensor) -> Tensor:
    """I(m, n) of Eq. 5: minimum over E, SW, S, SE of `likelihood` (B, H, W); 0 at the last position, which
    has no such neighbour, so that its own likelihood alone decides."""
    padded = F.pad(likelihood, (1, 1, 0, 1), value=float("inf"))
    east, south = padded[:, :-1, 2:], padded[:, 1:, 1:-1]
    southwest, southeast = padded[:, 1:, :-2], padded[:, 1:, 2:]
    least = torch.stack([east, southwest, south, southeast]).amin(0)
    return least.masked_fill(torch.isinf(least), 0.0)


@torch.no_grad()
def restore(prior: PixelSNAIL, codes: Tensor, eta: float, neighbour_rule: bool = True, order: int = 0) -> Restoration:
    """Replace the codes (B, H, W) that the prior finds unlikely below `eta` by the most likely ones.

    Exact: equal, code for code, to the raster loop of Eq. 5. An image without a suspicious code costs the
    one pass that gives its likelihood. With an `order` other than 0 the codes are read from another corner
    (and the neighbours flip with them); what is returned lies as the image does.
    """
    codes = reorder(codes, order)
    rows = Rows()
    logits = prior(codes, rows, order)
    likelihood = own(logits, codes)
    eligible = lower_neighbours(likelihood) < eta if neighbour_rule else torch.ones_like(codes, dtype=torch.bool)
    restored, after_restored = codes.clone(), logits.clone()
    # The images still changing: their places in the batch, codes, permission to change, present guess.
    active = torch.arange(len(codes), device=codes.device)
    original, guess, passes = codes, codes, 1
    while True:
        first = rows.first
        part = original[:, first:]
        change = (own(logits, part) < eta) & eligible[:, first:]
        after = torch.where(change, logits.argmax(1), part)
        moved = (after != guess[:, first:]).flatten(1)
        guess = torch.cat([guess[:, :first], after], 1)
        restored[active] = guess
        going = moved.any(1)
        if not going.any():
            likelihood_restored = own(after_restored, codes)
            return Restoration(
                reorder(restored, order), reorder(likelihood, order), reorder(likelihood_restored, order),
                reorder(after_restored, order), passes,
            )  # fmt: skip
        # Codes before the first that moved have found their final value; only the rows that look at it or
        # at later ones can give another number.
        at = moved[going].int().argmax(1)
        if not going.all():
            rows.keep(going)
        active, original, guess, eligible = active[going], original[going], guess[going], eligible[going]
        rows.first = first + int(at.min()) // codes.shape[2]
        logits = prior(guess, rows, order)
        after_restored[active, :, rows.first :] = logits
        passes += 1
