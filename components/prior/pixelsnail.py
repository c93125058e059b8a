"""PixelSNAIL (Chen et al. 2018) over a grid of codes: p(z) = prod_i p(z_i | z_<i), in raster order (Eq. 4).

Causal convolutions see near codes, masked self-attention all earlier ones. Each layer can also run on the
rows from some row on, with what it needs of the rows above kept from an earlier pass: restoration changes
codes below a row only, and the rows above it give the same numbers again.

Shapes: B grids, H x W codes, C channels, K codebook size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.settings import Prior as Config

ORDERS: tuple[tuple[int, ...], ...] = ((), (-2, -1), (-1,), (-2,))
KERNEL = (3, 5)  # rows (the current one and two above), columns


class Rows:
    """What each layer keeps of a pass over whole grids, so that later passes may start at row `first`, and take
    along only the `images` (b,) that have something to compute; None are all.

    `kept[name]` is (B, C, H, W); a later pass writes its own part of it.
    """

    def __init__(self) -> None:
        self.first = 0
        self.images: Tensor | None = None
        self.kept: dict[str, Tensor] = {}

    def whole(self, name: str, x: Tensor, start: int = 0) -> Tensor:
        """Store the rows `first`... of x (b, C, h - first, W) and return the rows `start`...h."""
        if name not in self.kept:
            self.kept[name] = x
            return x[:, :, start:]
        kept, last = self.kept[name], self.first + x.shape[2]
        picked = slice(None) if self.images is None else self.images
        kept[picked, :, self.first : last] = x
        return kept[picked, :, start:last]

    def of(self, images: Tensor) -> Rows:
        """Those of the images that are True in the mask (B), to go on with by themselves."""
        some = Rows()
        some.kept = {name: x[images] for name, x in self.kept.items()}
        return some


class CausalConv(nn.Conv2d):
    """A convolution over the rows above and the codes to the left; `current` says whether it sees its own
    position (only the first layer must not)."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, current: bool, name: str) -> None:
        super().__init__(inputs, outputs, KERNEL)
        self.name = name
        mask = torch.ones(KERNEL)
        mask[-1, KERNEL[1] // 2 + int(current) :] = 0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        above, side = KERNEL[0] - 1, KERNEL[1] // 2
        pad = above
        if rows is not None:
            start = max(rows.first - above, 0)
            pad = above - (rows.first - start)
            x = rows.whole(self.name, x, start)
        return F.conv2d(F.pad(x, (side, side, pad, 0)), self.weight * self.mask, self.bias)


def silence(layer: nn.Conv2d) -> None:
    """Zero a block's last layer: it starts as the identity, and a deep stack trains from the first step."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class GatedResidual(nn.Module):
    """x + a * sigmoid(b), with (a, b) = Conv1(drop(ELU(CausalConv(ELU(x)))))."""

    def __init__(self, channels: int, dropout: float, name: str) -> None:
        super().__init__()
        self.conv = CausalConv(channels, channels, current=True, name=name)
        self.gate = nn.Conv2d(channels, 2 * channels, 1)
        self.dropout = nn.Dropout(dropout)
        silence(self.gate)

    def forward(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        hidden = self.dropout(F.elu(self.conv(F.elu(x), rows)))
        return x + F.glu(self.gate(hidden), dim=1)


class Attention(nn.Module):
    """Causal self-attention over the flattened grid. What stands at a position depends on earlier codes
    only, so a position may attend to itself."""

    def __init__(self, channels: int, heads: int, name: str) -> None:
        super().__init__()
        self.heads, self.name = heads, name
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, 2 * channels, 1)
        silence(self.out)

    def split(self, x: Tensor) -> Tensor:
        """(B, C, h, W) to (B, heads, h * W, C / heads), in this order in memory: attention reads it a tenth faster."""
        return x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous()

    def forward(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        q, k, v = self.qkv(F.elu(x)).chunk(3, 1)
        queries, width = q.shape[2] * q.shape[3], q.shape[3]
        if rows is not None:
            k, v = rows.whole(f"{self.name}.k", k), rows.whole(f"{self.name}.v", v)
        q, k, v = self.split(q), self.split(k), self.split(v)
        mask = None
        if k.shape[2] != queries:  # the queries are the last rows of the keys
            first = k.shape[2] - queries
            mask = torch.ones(queries, k.shape[2], dtype=torch.bool, device=x.device).tril(first)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        seen = seen.transpose(1, 2).flatten(2).unflatten(1, (-1, width)).permute(0, 3, 1, 2)
        return x + F.glu(self.out(seen), dim=1)


def reorder(grid: Tensor, order: int) -> Tensor:
    """Flip (..., H, W) so that raster order reads it from corner `order`: 0 top left, 1 bottom right,
    2 top right, 3 bottom left. Its own inverse."""
    return grid.flip(ORDERS[order]) if ORDERS[order] else grid


class PixelSNAIL(nn.Module):
    """Logits of every code of a grid given the codes before it."""

    def __init__(self, codebook_size: int, grid: int, config: Config) -> None:
        super().__init__()
        self.codebook_size, self.grid, self.orders = codebook_size, grid, config.orders
        self.embed = nn.Embedding(codebook_size, config.channels)
        self.first = CausalConv(config.channels, config.channels, current=False, name="first")
        # A table for each reading order tells the layers both where they are and which way they read.
        self.row = nn.Parameter(0.02 * torch.randn(config.orders, config.channels, grid, 1))
        self.column = nn.Parameter(0.02 * torch.randn(config.orders, config.channels, 1, grid))
        blocks: list[nn.Module] = []
        for b in range(config.blocks):
            for r in range(config.residual_layers):
                blocks.append(GatedResidual(config.channels, config.dropout, f"residual{b}.{r}"))
            blocks.append(Attention(config.channels, config.heads, f"attention{b}"))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(config.channels, codebook_size, 1)

    def forward(self, codes: Tensor, rows: Rows | None = None, order: int = 0) -> Tensor:
        """codes int64 (B, h, W), h <= H rows from the top, to logits (B, K, h - first, W), where first is
        `rows.first` or 0.

        The logits at a position depend on no code at or after it. `codes` are to be flipped by `reorder`
        for any order but 0.
        """
        first, last = rows.first if rows is not None else 0, codes.shape[1]
        x = self.embed(codes[:, first:]).permute(0, 3, 1, 2)
        x = self.first(x, rows) + self.row[order, :, first:last] + self.column[order]
        for block in self.blocks:
            x = block(x, rows)
        return self.head(F.elu(x))
