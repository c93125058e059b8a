"""The codebook: nearest code by L2, straight-through gradient, two ways to learn it.

`loss` is the codebook term of Eq. 3 (Wang et al. 2020); `ema` follows van den Oord et al. 2017, appendix
A.1, with the revival of dead codes. Both add the commitment term.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components import parallel


class Codebook(nn.Module):
    """K code vectors of D numbers.

    Buffers, not parameters, in `ema` mode, so that an optimiser never sees them.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    ready: Tensor

    def __init__(self, size: int, dim: int, mode: str, decay: float, revive_below: float) -> None:
        super().__init__()
        self.mode, self.decay, self.revive_below = mode, decay, revive_below
        start = torch.randn(size, dim)
        if mode == "loss":
            self.vectors = nn.Parameter(start)
        else:
            self.register_buffer("vectors", start)
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", start.clone())
        self.register_buffer("ready", torch.tensor(mode == "loss"))

    def indices(self, z: Tensor) -> Tensor:
        """Index of the nearest code (Eq. 1) of z (B, D, H, W): int64 (B, H, W)."""
        flat = z.float().permute(0, 2, 3, 1)
        # In bfloat16 near codes would tie, and a tie is a different code on another batch size.
        with torch.autocast(z.device.type, enabled=False):
            distance = self.vectors.square().sum(1) - 2 * flat @ self.vectors.t()  # + |z|^2, equal for all k
        return distance.argmin(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Vectors of the codes (Eq. 2): (B, H, W) to (B, D, H, W)."""
        return F.embedding(indices, self.vectors).permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantise z (B, D, H, W).

        Returns the quantised z with a straight-through gradient, the codes (B, H, W), the codebook loss
        (0 in `ema` mode) and the commitment loss, both per element, before beta.
        """
        z = z.float()
        if self.training and not self.ready:
            self._start_from(z)
        indices = self.indices(z)
        quantised = self.lookup(indices)
        commitment = F.mse_loss(z, quantised.detach())
        codebook = F.mse_loss(quantised, z.detach()) if self.mode == "loss" else z.new_zeros(())
        if self.training and self.mode == "ema":
            self._move(z.detach(), indices)
        return z + (quantised - z).detach(), indices, codebook, commitment

    @torch.no_grad()
    def _start_from(self, z: Tensor) -> None:
        """Take the first codes from the first batch: N(0, 1) lies far from where the encoder writes, and
        one code would win everything."""
        self.vectors.copy_(self._draw(z, len(self.vectors)))
        self.sums.copy_(self.vectors)
        self.ready.fill_(True)

    @staticmethod
    def _draw(z: Tensor, n: int) -> Tensor:
        flat = parallel.whole(z).permute(0, 2, 3, 1).flatten(0, 2)
        return flat[parallel.agreed(torch.randint(len(flat), (n,), device=flat.device))]

    @torch.no_grad()
    def _move(self, z: Tensor, indices: Tensor) -> None:
        flat, chosen = z.permute(0, 2, 3, 1).flatten(0, 2), indices.flatten()
        counts = torch.bincount(chosen, minlength=len(self.vectors)).to(z.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, flat)
        self.counts.lerp_(parallel.total(counts), 1 - self.decay)
        self.sums.lerp_(parallel.total(sums), 1 - self.decay)
        dead = self.counts < self.revive_below * self.counts.mean()
        if dead.any():
            # A revived code starts at the mean use, or it would be counted dead again at the next step.
            self.sums[dead] = self._draw(z, int(dead.sum())) * self.counts.mean()
            self.counts[dead] = self.counts.mean()
        self.vectors.copy_(self.sums / self.counts[:, None])


def usage(indices: Tensor, size: int) -> tuple[int, float]:
    """How many codes occur in `indices`, and their perplexity exp(H), between 1 and `size`."""
    share = torch.bincount(indices.flatten(), minlength=size).double() / indices.numel()
    used = share[share > 0]
    return len(used), float(torch.exp(-(used * used.log()).sum()))
