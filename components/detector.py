"""The detector: both models, eta, a score and its standards. Calibration fits one, the package holds one,
evaluation and inspection run one; so what is served is what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from components.errors import UserError
from components.prior.pixelsnail import PixelSNAIL
from components.scoremap import Evidence, base_maps, examine
from components.standard import Standard
from components.vqvae.model import VQVAE

# What each score is made of. One map stands as it is; several are standardised and added.
SCORES: dict[str, tuple[str, ...]] = {
    "restored": ("restored",),
    "input_restored": ("input_restored",),
    "reconstruction": ("reconstruction",),
    "likelihood": ("likelihood",),
    "surprise": ("surprise",),
    "combined": ("surprise", "input_restored"),
}


@dataclass(frozen=True)
class Detector:
    """`spread`: mean squared quantisation error per dimension on normal images. `views`: 1, or how many of
    the eight turns and flips are averaged (only where turning a part leaves it normal)."""

    vqvae: VQVAE
    prior: PixelSNAIL
    eta: float
    neighbour_rule: bool
    spread: float
    bilateral: tuple[float, ...]
    views: int = 1
    standards: Mapping[str, Standard] = field(default_factory=dict)

    def look(self, image: Tensor) -> tuple[dict[str, np.ndarray], Evidence]:
        """Base maps float32 (B, S, S), averaged over the views, and the evidence of the upright one, for
        images (B, C, S, S) in [0, 1]."""
        maps, upright = self._view(image)
        for view in range(1, self.views):
            turned, _ = self._view(turn(image, view))
            for name in maps:
                maps[name] = maps[name] + unturn(turned[name], view)
        return {name: m / self.views for name, m in maps.items()}, upright

    def _view(self, image: Tensor) -> tuple[dict[str, np.ndarray], Evidence]:
        evidence = examine(self.vqvae, self.prior, image, self.eta, self.neighbour_rule)
        return base_maps(evidence, self.vqvae.codebook.vectors, self.spread, self.bilateral), evidence

    def score(self, maps: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        """The score map float32 (B, S, S) called `name` in SCORES; UserError for another name."""
        if name not in SCORES:
            raise UserError(f"score '{name}' is not known; use auto or one of {', '.join(SCORES)}")
        parts = SCORES[name]
        if len(parts) == 1:
            return maps[parts[0]]
        return np.sum([self.standards[part].apply(maps[part]) for part in parts], axis=0, dtype=np.float32)


def turn(image: Tensor, view: int) -> Tensor:
    """View 0..7 of (..., S, S): half turns first, since they differ most in raster order."""
    turns, flip = VIEWS[view]
    turned = torch.rot90(image, turns, (-2, -1))
    turned = turned.flip(-1) if flip else turned
    return turned.contiguous(memory_format=torch.channels_last)


def unturn(maps: np.ndarray, view: int) -> np.ndarray:
    """Undo `turn` on maps (B, S, S)."""
    turns, flip = VIEWS[view]
    return np.rot90(maps[..., ::-1] if flip else maps, -turns, (-2, -1))


VIEWS = ((0, False), (2, False), (0, True), (2, True), (1, False), (3, False), (1, True), (3, True))
