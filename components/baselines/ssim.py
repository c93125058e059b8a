"""Structural similarity (Wang et al. 2004), differentiable, as a map.

    SSIM(p, q) = (2 m_p m_q + c1) (2 s_pq + c2) / ((m_p^2 + m_q^2 + c1) (s_p^2 + s_q^2 + c2))

with means m, variances s^2 and covariance s_pq under an 11 x 11 Gaussian window of sigma 1.5, c1 = 0.01^2 and
c2 = 0.03^2 for values in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def window(size: int, like: Tensor) -> Tensor:
    """The Gaussian window along one side as a matrix (size, size), edges mirrored: row i weighs what i sees."""
    radius = WINDOW // 2
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    weights = torch.exp(-(offsets.to(like.dtype) ** 2) / (2 * SIGMA**2))
    places = torch.arange(size, device=like.device)[:, None] + offsets
    places = torch.where(places < 0, -1 - places, places)
    places = torch.where(places >= size, 2 * size - 1 - places, places)
    return like.new_zeros(size, size).scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))


def blur(x: Tensor) -> Tensor:
    """The window's weighted mean around each pixel of (B, C, H, W), sides of at least 5.

    Two matrix products: on CPUs the gradient of a convolution with one channel takes ten times as long.
    """
    return window(x.shape[2], x) @ x @ window(x.shape[3], x).t()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM map (B, C, H, W), at most 1, of images (B, C, H, W) in [0, 1].

    In float32 whatever the surrounding precision: variances are differences of near numbers.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float().contiguous(), y.float().contiguous()
        mean_x, mean_y, xx, yy, xy = blur(torch.cat([x, y, x * x, y * y, x * y], 1)).chunk(5, 1)
        variances = xx - mean_x**2 + yy - mean_y**2
        covariance = xy - mean_x * mean_y
        above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
        return above / ((mean_x**2 + mean_y**2 + C1) * (variances + C2))
