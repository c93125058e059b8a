"""Restoration: Eq. 5's resampling in raster order, reached as a fixed point in a few batched passes.

Reading of Eq. 5. Let z be the original codes, r the restored ones and p the prior. One pass over z gives
p(z_i | z_<i); I_i is its minimum over the neighbours E, SW, S and SE that exist (the last position has
none and stands on its own likelihood). Then, in raster order,

    r_i = argmax_k p(k | r_<i)   if p(z_i | r_<i) < eta and I_i < eta,   else z_i.

r_i depends on r_<i alone. So the raster result is the only grid that the rule, applied everywhere at once
with r as context, maps to itself: position 0 is right after one pass, and position i once all before it
are. Iterating until nothing changes gives the same codes as the loop, in far fewer passes; and since later
codes cannot touch earlier ones, it may be done block of rows by block of rows.

Where a code stands for a cell of 2 x 2 positions (components/vqvae/patches.py), the prior is surprised at the first
that it reads and expects the others. So every position of the cell has the least of the four likelihoods, and the
cell is its own neighbourhood: it is as large as the four codes that the rule asks about.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.prior.pixelsnail import PixelSNAIL, Rows, reorder

BLOCK = 6  # rows iterated together: fewer do less work, more do it in fewer calls


@dataclass(frozen=True)
class Restoration:
    """What came of a `reading` of B grids of H x W codes.

    `codes` int64 (B, H, W): restored, lying as the image does. `after` (B, H, W): p(z_i | r_<i) of the original codes
    after the restored ones, lying as the prior reads. `passes`: rows that the prior computed, over H and B; 1 when
    nothing was suspicious.
    """

    reading: Reading
    codes: Tensor
    after: Tensor
    passes: float

    @property
    def likelihood(self) -> Tensor:
        """p(z_i | z_<i) of the original codes after the original ones, (B, H, W)."""
        return self.reading.likelihood

    @property
    def likelihood_restored(self) -> Tensor:
        """p(z_i | r_<i) of the original codes after the restored ones, (B, H, W); of cells as in `likelihood`."""
        return reorder(share(self.after, self.reading.coarse), self.reading.order)


def own(logits: Tensor, codes: Tensor) -> Tensor:
    """Likelihood in [0, 1] of `codes` (B, h, W) under `logits` (B, K, h, W)."""
    chosen = logits.gather(1, codes[:, None]).squeeze(1)
    return (chosen - logits.logsumexp(1)).exp()


def likeliest(logits: Tensor, where: Tensor, codes: Tensor) -> Tensor:
    """`codes` (B, h, W) with the most likely one under `logits` (B, K, h, W) wherever the mask (B, h, W) is True."""
    chosen = codes.clone()
    chosen[where] = logits.permute(0, 2, 3, 1)[where].argmax(1)
    return chosen


def lower_neighbours(likelihood: Tensor) -> Tensor:
    """I(m, n) of Eq. 5: minimum over E, SW, S, SE of `likelihood` (B, H, W); 0 at the last position, which
    has no such neighbour, so that its own likelihood alone decides."""
    padded = F.pad(likelihood, (1, 1, 0, 1), value=float("inf"))
    east, south = padded[:, :-1, 2:], padded[:, 1:, 1:-1]
    southwest, southeast = padded[:, 1:, :-2], padded[:, 1:, 2:]
    least = torch.stack([east, southwest, south, southeast]).amin(0)
    return least.masked_fill(torch.isinf(least), 0.0)


def share(likelihood: Tensor, coarse: Tensor | None) -> Tensor:
    """`likelihood` (B, H, W) with the least over its cell of 2 x 2 positions wherever `coarse` (B, H, W) is True."""
    if coarse is None:
        return likelihood
    least = -F.max_pool2d(-likelihood[:, None], 2)
    return torch.where(coarse, F.interpolate(least, scale_factor=2.0, mode="nearest")[:, 0], likelihood)


@dataclass(frozen=True)
class Reading:
    """The prior's one pass over B grids of codes (B, H, W) in an `order`; restoration goes on from here.

    `codes` and `coarse` are flipped for the order, `logits` (B, K, H, W) and `seen` (B, H, W), p(z_i | z_<i), too.
    `rows` has the activations of the pass.
    """

    prior: PixelSNAIL
    codes: Tensor
    coarse: Tensor | None
    order: int
    rows: Rows
    logits: Tensor
    seen: Tensor

    @property
    def likelihood(self) -> Tensor:
        """p(z_i | z_<i), (B, H, W), lying as the image does; of a code that stands for a cell, the least over its
        positions."""
        return reorder(share(self.seen, self.coarse), self.order)

    @torch.no_grad()
    def restored(self, eta: float, neighbour_rule: bool = True) -> Restoration:
        """Replace the codes that the prior finds unlikely below `eta` by the most likely ones.

        Exact: equal, code for code, to the raster loop of Eq. 5. Images without a suspicious code cost nothing more
        than the pass. The others go on together, BLOCK rows at a time: the rows above are final and their activations
        kept, the rows below need not be looked at before it is their turn. In a block, an image is computed again only
        when one of its codes was replaced above, or just now.
        """
        codes, coarse, order, height = self.codes, self.coarse, self.order, self.codes.shape[1]
        eligible = torch.ones_like(codes, dtype=torch.bool)
        if neighbour_rule:
            likelihood = share(self.seen, coarse)
            eligible = lower_neighbours(likelihood) < eta
            if coarse is not None:
                eligible |= coarse & (likelihood < eta)
        suspicious = (self.seen < eta) & eligible
        active = suspicious.flatten(1).any(1)
        restored, after, computed = codes.clone(), self.seen.clone(), float(height)
        if active.any():
            rows = self.rows.of(active)
            original, permitted, guess, likelihood = codes[active], eligible[active], codes[active], self.seen[active]
            ruled = likeliest(self.logits, suspicious, codes)[active]  # what the rule makes of `likelihood`
            first = int(suspicious.flatten(2).any(2).any(0).int().argmax())  # the first row with one, in any image
            changed = torch.zeros(len(guess), dtype=torch.bool, device=guess.device)
            while first < height:
                last, at = min(first + BLOCK, height), first
                moving = changed  # above nothing has changed in the others: what they are ruled by is right
                while True:
                    if moving.any():
                        rows.first, rows.images = at, None if moving.all() else moving.nonzero()[:, 0]
                        logits, z = self.prior(guess[moving, :last], rows, order), original[moving, at:last]
                        found = own(logits, z)
                        wrong = (found < eta) & permitted[moving, at:last]
                        likelihood[moving, at:last], ruled[moving, at:last] = found, likeliest(logits, wrong, z)
                        computed += (last - at) * float(moving.sum()) / len(codes)
                    moved = ruled[:, at:last] != guess[:, at:last]
                    if not moved.any():
                        break
                    guess[:, at:last] = ruled[:, at:last]
                    at += int(moved.any(2).any(0).int().argmax())
                    moving = moved.flatten(1).any(1)
                    changed = changed | moving
                first = last
            restored[active], after[active] = guess, likelihood
        return Restoration(self, reorder(restored, order), after, computed / height)


@torch.no_grad()
def read(prior: PixelSNAIL, codes: Tensor, order: int = 0, coarse: Tensor | None = None) -> Reading:
    """One pass over the codes (B, H, W); with an `order` other than 0 they are read from another corner, and the
    neighbours flip with them. `coarse` (B, H, W) says which codes stand for a cell of 2 x 2 positions."""
    codes = reorder(codes, order)
    rows = Rows()
    logits = prior(codes, rows, order)
    return Reading(
        prior, codes, None if coarse is None else reorder(coarse, order), order, rows, logits, own(logits, codes)
    )


def restore(
    prior: PixelSNAIL,
    codes: Tensor,
    eta: float,
    neighbour_rule: bool = True,
    order: int = 0,
    coarse: Tensor | None = None,
) -> Restoration:
    """Read the codes (B, H, W) and restore them: see `read` and `Reading.restored`."""
    return read(prior, codes, order, coarse).restored(eta, neighbour_rule)
