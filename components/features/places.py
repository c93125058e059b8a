"""From a layer of any size to the places of the code grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def at_places(layer: Tensor, side: int) -> Tensor:
    """Means of a layer (B, F, S, S) over 3 x 3 of side x side places, float32 (B, F, side, side).

    A place's features are the mean of its neighbourhood (PatchCore; Roth et al. 2022): one cell of displacement is no
    defect. Layers finer than the grid are averaged down to it first.
    """
    at = layer if layer.shape[-1] <= side else F.adaptive_avg_pool2d(layer, side)
    at = F.interpolate(at.float(), size=(side, side), mode="bilinear", align_corners=False)
    return F.avg_pool2d(at, 3, 1, 1, count_include_pad=False)
