"""Why a code is suspicious: what the prior expected in its place, and which earlier codes it looked at.

Shapes: codes int64 (H, W) of one image; K codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.arrays import to_picture
from components.prior.pixelsnail import Attention, PixelSNAIL
from components.restore import own


@dataclass(frozen=True)
class Expectation:
    """At one position: `likelihood` of its code after the original codes before it, `likelihood_restored` after
    the restored ones; `codes` and `probabilities`, the n most likely after the restored ones; `attention`
    float32 (H, W), summing to 1: where the prior looked, mean over blocks and heads."""

    likelihood: float
    likelihood_restored: float
    codes: tuple[int, ...]
    probabilities: tuple[float, ...]
    attention: np.ndarray


@torch.no_grad()
def expect(prior: PixelSNAIL, codes: Tensor, restored: Tensor, row: int, column: int, n: int = 5) -> Expectation:
    """What the prior says of position (row, column), read in raster order, for the codes of an image and their
    restoration, both (H, W)."""
    logits, weights = attend(prior, torch.stack([codes, restored]), row, column)
    before, after = (float(own(one[None, :, None, None], codes[row, column].view(1, 1, 1))) for one in logits)
    probabilities, likely = logits[1].softmax(0).topk(min(n, prior.codebook_size))
    attention = weights[1].mean((0, 1)).float().cpu().numpy()
    return Expectation(before, after, tuple(likely.tolist()), tuple(probabilities.tolist()), attention)


@torch.no_grad()
def attend(prior: PixelSNAIL, codes: Tensor, row: int, column: int) -> tuple[Tensor, Tensor]:
    """Codes (B, H, W) to the logits (B, K) at a position, and the weights (B, blocks, heads, H, W) with which each
    masked self-attention mixed the positions up to it for that answer; 0 after it.

    The same pass as the prior's own, layer by layer, because a fused attention does not show its weights. Nothing
    below `row` can matter, so nothing below it is computed.
    """
    above = codes[:, : row + 1]
    x = prior.embed(above).permute(0, 3, 1, 2)
    x = prior.first(x) + prior.row[0, :, : row + 1] + prior.column[0]
    weights: list[Tensor] = []
    for block in prior.blocks:
        if isinstance(block, Attention):
            weights.append(_weights(block, x, row * codes.shape[2] + column))
        x = block(x)
    logits = prior.head(F.elu(x))[:, :, row, column]
    shape = (len(codes), len(weights), -1, *codes.shape[1:])
    seen = torch.stack(weights, 1)
    return logits, F.pad(seen, (0, codes[0].numel() - seen.shape[3])).view(shape)


def _weights(layer: Attention, x: Tensor, position: int) -> Tensor:
    """softmax(q k' / sqrt(d)) of one query over the positions up to it: (B, heads, position + 1)."""
    q, k, _ = layer.qkv(F.elu(x)).chunk(3, 1)
    query, keys = layer.split(q)[:, :, position], layer.split(k)[:, :, : position + 1]
    return torch.einsum("bhc,bhnc->bhn", query, keys).div(math.sqrt(query.shape[2])).softmax(2)


@torch.no_grad()
def patches(
    decode: Callable[[Tensor], Tensor],
    codes: Tensor,
    row: int,
    column: int,
    candidates: tuple[int, ...],
    cells: int = 5,
) -> list[np.ndarray]:
    """The part looks like this around a position with each candidate in its place: RGB uint8 (P, P, 3) each, the
    decoded picture of `cells` x `cells` codes with the position in the middle, grey beyond the image's edge.

    `codes` (H, W) surround the candidates; `decode` takes (B, H, W) to images (B, C, S, S) in [0, 1].
    """
    grids = codes.repeat(len(candidates), 1, 1)
    grids[:, row, column] = torch.tensor(candidates, device=codes.device)
    pictures = decode(grids)
    cell, reach = pictures.shape[-1] // codes.shape[-1], cells // 2
    found = []
    for picture in pictures:
        edge = reach * cell
        padded = np.pad(to_picture(picture), ((edge, edge), (edge, edge), (0, 0)), constant_values=127)
        found.append(padded[row * cell : (row + cells) * cell, column * cell : (column + cells) * cell])
    return found
