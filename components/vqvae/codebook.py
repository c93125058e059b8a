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

    Buffers, not parameters, in `ema` mode, so that an optimiser never sees them. With more than one of `parts`
    the codes 0..K-1 fall into so many equal runs, and a position chooses within the run that its `part` names:
    each then starts, moves and revives by its own positions alone.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    ready: Tensor

    def __init__(self, size: int, dim: int, mode: str, decay: float, revive_below: float, parts: int = 1) -> None:
        super().__init__()
        self.mode, self.decay, self.revive_below = mode, decay, revive_below
        self.parts, self.run = parts, size // parts
        start = torch.randn(size, dim)
        if mode == "loss":
            self.vectors = nn.Parameter(start)
        else:
            self.register_buffer("vectors", start)
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", start.clone())
        self.register_buffer("ready", torch.tensor(mode == "loss"))

    def indices(self, z: Tensor, part: Tensor | None = None) -> Tensor:
        """Index of the nearest code (Eq. 1) of z (B, D, H, W), among those of `part` int64 (B, H, W) where it is
        given: int64 (B, H, W)."""
        flat = z.float().permute(0, 2, 3, 1)
        # In bfloat16 near codes would tie, and a tie is a different code on another batch size.
        with torch.autocast(z.device.type, enabled=False):
            distance = self.vectors.square().sum(1) - 2 * flat @ self.vectors.t()  # + |z|^2, equal for all k
        if part is not None:
            of_code = torch.arange(len(self.vectors), device=z.device) // self.run
            distance = distance.masked_fill(of_code != part[..., None], float("inf"))
        return distance.argmin(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Vectors of the codes (Eq. 2): (B, H, W) to (B, D, H, W)."""
        return F.embedding(indices, self.vectors).permute(0, 3, 1, 2)

    def forward(self, z: Tensor, part: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantise z (B, D, H, W), each position within its `part` (B, H, W) of the codes.

        Returns the quantised z with a straight-through gradient, the codes (B, H, W), the codebook loss
        (0 in `ema` mode) and the commitment loss, both per element, before beta.
        """
        z = z.float()
        if self.training and not self.ready:
            self._start_from(z, part)
        indices = self.indices(z, part)
        quantised = self.lookup(indices)
        commitment = F.mse_loss(z, quantised.detach())
        codebook = F.mse_loss(quantised, z.detach()) if self.mode == "loss" else z.new_zeros(())
        if self.training and self.mode == "ema":
            self._move(z.detach(), indices)
        return z + (quantised - z).detach(), indices, codebook, commitment

    @torch.no_grad()
    def _start_from(self, z: Tensor, part: Tensor | None) -> None:
        """Take the first codes from the first batch: N(0, 1) lies far from where the encoder writes, and
        one code would win everything."""
        for number, codes in enumerate(self._runs()):
            self.vectors[codes] = self._draw(z, self.run, part, number)
        self.sums.copy_(self.vectors)
        self.ready.fill_(True)

    def _runs(self) -> list[slice]:
        return [slice(i * self.run, (i + 1) * self.run) for i in range(self.parts)]

    @staticmethod
    def _draw(z: Tensor, n: int, part: Tensor | None, number: int) -> Tensor:
        """`n` vectors from the whole batch, from the positions of one `part` if there are any."""
        flat = parallel.whole(z).permute(0, 2, 3, 1).flatten(0, 2)
        if part is not None:
            own = flat[parallel.whole(part).flatten() == number]
            flat = own if len(own) else flat
        return flat[parallel.agreed(torch.randint(len(flat), (n,), device=flat.device))]

    @torch.no_grad()
    def _move(self, z: Tensor, indices: Tensor) -> None:
        flat, chosen = z.permute(0, 2, 3, 1).flatten(0, 2), indices.flatten()
        counts = parallel.total(torch.bincount(chosen, minlength=len(self.vectors)).to(z.dtype))
        sums = parallel.total(torch.zeros_like(self.sums).index_add_(0, chosen, flat))
        part = None if self.parts == 1 else indices // self.run
        for number, codes in enumerate(self._runs()):
            if not counts[codes].any():
                continue  # decayed without new positions, counts would fall to 0 and the vectors to 0 / 0
            mean = self.counts[codes].lerp_(counts[codes], 1 - self.decay).mean()
            self.sums[codes].lerp_(sums[codes], 1 - self.decay)
            dead = self.counts[codes] < self.revive_below * mean
            if dead.any():
                # A revived code starts at the mean use, or it would be counted dead again at the next step.
                self.sums[codes][dead] = self._draw(z, int(dead.sum()), part, number) * mean
                self.counts[codes][dead] = mean
        self.vectors.copy_(self.sums / self.counts[:, None])


def usage(indices: Tensor, size: int) -> tuple[int, float]:
    """How many codes occur in `indices`, and their perplexity exp(H), between 1 and `size`."""
    share = torch.bincount(indices.flatten().cpu(), minlength=size).double() / indices.numel()
    used = share[share > 0]
    return len(used), float(torch.exp(-(used * used.log()).sum()))
