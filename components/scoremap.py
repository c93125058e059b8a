"""Score maps: what a restoration shows about an image, as one number per pixel.

The paper's score is |restored - reconstructed| (Eq. 6), after a bilateral filter. Its ablations and what
the prior says of each code are maps too; `combined` adds those that standing alone see different things.
Shapes: B images of S x S pixels, s x s codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.prior.pixelsnail import PixelSNAIL
from components.restore import Restoration, restore
from components.vqvae.model import VQVAE

SMOOTHING = 4.0  # pixels at a side of 256: sigma of the Gaussian over maps that come from the code grid
FLOOR = 1e-9  # likelihoods below say no more than "never"


@dataclass(frozen=True)
class Evidence:
    """All that one look at a batch gives: `image`, `reconstructed` (from its own codes), `restored` (from
    the restored codes) in (B, C, S, S) in [0, 1], `latents` (B, D, s, s) of the encoder, its `codes`."""

    image: Tensor
    reconstructed: Tensor
    restored: Tensor
    latents: Tensor
    codes: Tensor
    restoration: Restoration


@torch.no_grad()
def examine(vqvae: VQVAE, prior: PixelSNAIL, image: Tensor, eta: float, neighbour_rule: bool) -> Evidence:
    """Encode, restore and decode a batch (B, C, S, S) in [0, 1].

    Images without a replaced code are decoded once: their restored picture is their reconstruction.
    """
    latents = vqvae.encoder(image)
    codes = vqvae.codebook.indices(latents)
    restoration = restore(prior, codes, eta, neighbour_rule)
    reconstructed = vqvae.decode(codes)
    restored = reconstructed
    changed = (restoration.codes != codes).flatten(1).any(1)
    if changed.any():
        restored = reconstructed.clone()
        restored[changed] = vqvae.decode(restoration.codes[changed])
    return Evidence(image, reconstructed, restored, latents, codes, restoration)


def distance(a: Tensor, b: Tensor) -> np.ndarray:
    """Eq. 6 on the 0-255 scale: sqrt(sum over channels of (a - b)^2), (B, C, S, S) to (B, S, S)."""
    return (255 * (a - b).float().square().sum(1).sqrt()).cpu().numpy()


def surprise(evidence: Evidence, codebook: Tensor, spread: float) -> Tensor:
    """-log sum_k p(k | r_<i) N(z_i; e_k, spread): how unlikely the encoder's output itself is, (B, s, s).

    A code's likelihood jumps when an output lies between two codes and either would do; a mixture of
    Gaussians around the codes, weighted by the prior, does not.
    """
    z = evidence.latents.float().permute(0, 2, 3, 1)
    squared = (z.square().sum(-1, keepdim=True) - 2 * z @ codebook.t() + codebook.square().sum(1)).clamp_min(0)
    log_prior = evidence.restoration.logits.log_softmax(1).permute(0, 2, 3, 1).clamp_min(np.log(FLOOR))
    return -(log_prior - squared / (2 * spread)).logsumexp(-1)


def base_maps(
    evidence: Evidence, codebook: Tensor, spread: float, bilateral: tuple[float, ...]
) -> dict[str, np.ndarray]:
    """Every map that is not a combination, float32 (B, S, S)."""
    size = evidence.image.shape[-1]

    def smooth(maps: np.ndarray) -> np.ndarray:
        # On this scale sigma_colour = 75 grey values blurs within a region and keeps its edge.
        d, colour, space = bilateral
        return np.stack([cv2.bilateralFilter(m.astype(np.float32), int(d), colour, space) for m in maps])

    def grow(grid: Tensor) -> np.ndarray:
        up = F.interpolate(grid[:, None].float(), size=(size, size), mode="bilinear", align_corners=False)
        sigma = SMOOTHING * size / 256
        return np.stack([cv2.GaussianBlur(m, (0, 0), sigma) for m in up[:, 0].cpu().numpy()])

    restoration = evidence.restoration
    return {
        "restored": smooth(distance(evidence.restored, evidence.reconstructed)),
        "input_restored": smooth(distance(evidence.image, evidence.restored)),
        "reconstruction": smooth(distance(evidence.image, evidence.reconstructed)),
        "likelihood": grow(-restoration.likelihood.clamp_min(FLOOR).log()),
        "likelihood_restored": grow(-restoration.likelihood_restored.clamp_min(FLOOR).log()),
        "surprise": grow(surprise(evidence, codebook, spread)),
    }
