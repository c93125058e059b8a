"""Score maps: what a restoration shows about an image, as one number per pixel.

The paper's score is |restored - reconstructed| (Eq. 6), after a bilateral filter. Its ablations, and what
the prior says of each code, are maps too. Shapes: B images of S x S pixels, s x s codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.features.model import FeatureVQVAE
from components.normality.model import Normality
from components.prior.pixelsnail import PixelSNAIL
from components.restore import Reading, Restoration, read
from components.vqvae.model import VQVAE
from components.wavelets import strengths

SMOOTHING = 1.0  # cells of the code grid: sigma of the Gaussian over maps that come from it
FLOOR = 1e-9  # likelihoods below say no more than "never"


@dataclass(frozen=True)
class Evidence:
    """All that one look at a batch gives; what nobody asks for is neither read, restored nor drawn.

    `image` (B, C, S, S) in [0, 1], `features` what its `codes` (B, s, s) are made of. `budget` (B, s, s) is the
    probability with which each position got a code of its own, where the model allocates them by context.
    """

    vqvae: VQVAE | FeatureVQVAE
    prior: PixelSNAIL
    eta: float
    neighbour_rule: bool
    image: Tensor
    features: Tensor
    codes: Tensor
    budget: Tensor | None = None
    readings: dict[int, Reading] = field(default_factory=dict)
    restorations: dict[int, Restoration] = field(default_factory=dict)

    def reading(self, order: int = 0) -> Reading:
        """The prior's pass in one of its reading orders; the first, in raster order, is the paper's."""
        if order not in self.readings:
            self.readings[order] = read(self.prior, self.codes, order, self.vqvae.coarse(self.codes))
        return self.readings[order]

    def restoration(self, order: int = 0) -> Restoration:
        """What restoring in that order gives; the raster's is the one that `restored` and `residual` show."""
        if order not in self.restorations:
            self.restorations[order] = self.reading(order).restored(self.eta, self.neighbour_rule)
        return self.restorations[order]

    @cached_property
    @torch.no_grad()
    def reconstructed(self) -> Tensor:
        """The picture of the image's own codes, (B, C, S, S) in [0, 1]."""
        return self.vqvae.decode(self.codes)

    @cached_property
    @torch.no_grad()
    def restored(self) -> Tensor:
        """The picture of the restored codes; an image without a replaced code is not decoded twice."""
        restored = self.restoration().codes
        changed = (restored != self.codes).flatten(1).any(1)
        if not changed.any():
            return self.reconstructed
        pictures = self.reconstructed.clone()
        pictures[changed] = self.vqvae.decode(restored[changed])
        return pictures

    @cached_property
    @torch.no_grad()
    def residual(self) -> Tensor:
        """What should be like that of normal images, (B, F, s, s): the image's features minus those of its restored
        codes; over pixels its waves and colours (components.wavelets), and these minus the reconstruction's."""
        if self.vqvae.latent == "features":
            return self.features - self.vqvae.expected(self.restoration().codes)
        side = self.codes.shape[-1]
        own = strengths(self.image, side)
        return torch.cat([own, own - strengths(self.reconstructed.clamp(0, 1), side)], 1)


@torch.no_grad()
def examine(
    vqvae: VQVAE | FeatureVQVAE, prior: PixelSNAIL, image: Tensor, eta: float, neighbour_rule: bool
) -> Evidence:
    """Encode a batch (B, C, S, S) in [0, 1]."""
    features = vqvae.features(image)
    codes, budget = vqvae.allocate(features)
    return Evidence(vqvae, prior, eta, neighbour_rule, image, features, codes, budget)


def distance(a: Tensor, b: Tensor) -> np.ndarray:
    """Eq. 6 on the 0-255 scale: sqrt(sum over channels of (a - b)^2), (B, C, S, S) to (B, S, S)."""
    return (255 * (a - b).float().square().sum(1).sqrt()).cpu().numpy()


def grow(grid: Tensor, size: int, cells: float) -> np.ndarray:
    """A map on the code grid (B, s, s) to float32 (B, size, size), smoothed by a Gaussian of `cells` cells."""
    up = F.interpolate(grid[:, None].float(), size=(size, size), mode="bilinear", align_corners=False)
    sigma = cells * size / grid.shape[-1]
    return np.stack([cv2.GaussianBlur(m, (0, 0), sigma) for m in up[:, 0].cpu().numpy()])


FEATURE_SMOOTHING = 0.5  # cells: a residual of features is smoother than a likelihood


def base_maps(
    evidence: Evidence, bilateral: tuple[float, ...], names: Iterable[str], normality: Normality | None = None
) -> dict[str, np.ndarray]:
    """The maps in `names`, none of them a combination, float32 (B, S, S); what nobody asks for costs nothing.

    `likelihood` is -log p(z_i | z_<i), mean over the reading orders; `restored_likelihood` is
    -log p(z_i | r_<i): given the restored codes, a defect no longer casts doubt on the good codes after it.
    `budget` is the probability of codes of their own. What is not drawn here is of `normality`.
    """
    size, orders = evidence.image.shape[-1], range(evidence.prior.orders)

    def smooth(maps: np.ndarray) -> np.ndarray:
        # On this scale sigma_colour = 75 grey values blurs within a region and keeps its edge.
        d, colour, space = bilateral
        return np.stack([cv2.bilateralFilter(m.astype(np.float32), int(d), colour, space) for m in maps])

    def surprise(likelihoods: list[Tensor]) -> Tensor:
        return torch.stack([-p.clamp_min(FLOOR).log() for p in likelihoods]).mean(0)

    draw: dict[str, Callable[[], np.ndarray]] = {
        "restored": lambda: smooth(distance(evidence.restored, evidence.reconstructed)),
        "input_restored": lambda: smooth(distance(evidence.image, evidence.restored)),
        "reconstruction": lambda: smooth(distance(evidence.image, evidence.reconstructed)),
        "likelihood": lambda: grow(surprise([evidence.reading(k).likelihood for k in orders]), size, SMOOTHING),
        "restored_likelihood": lambda: grow(
            surprise([evidence.restoration(k).likelihood_restored for k in orders]), size, SMOOTHING
        ),
    }
    if evidence.budget is not None:
        draw["budget"] = partial(grow, evidence.budget, size, SMOOTHING)
    names = tuple(names)
    residual = [name for name in names if name not in draw]
    if residual and normality is not None:
        measured = normality.maps(evidence.residual, residual)
        draw |= {name: partial(grow, grid, size, FEATURE_SMOOTHING) for name, grid in measured.items()}
    return {name: draw[name]() for name in names}
