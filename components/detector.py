"""The detector: both models, eta, a score and its standards. Calibration fits one, the package holds one,
evaluation and inspection run one; so what is served is what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from components.errors import UserError
from components.prior.pixelsnail import PixelSNAIL
from components.scoremap import MAPS, Evidence, base_maps, examine
from components.standard import Standard
from components.vqvae.model import VQVAE

# What each score is made of. The paper's own, Eq. 6, stands as it is; all others are standardised first: their
# size on a normal part differs from place to place.
SCORES: dict[str, tuple[str, ...]] = {
    "restored": ("restored",),
    "reconstruction": ("reconstruction",),
    "input_restored": ("input_restored",),
    "likelihood": ("likelihood",),
    "restored_likelihood": ("restored_likelihood",),
    "likelihood+restored": ("restored_likelihood", "restored"),
    "likelihood+input": ("restored_likelihood", "input_restored"),
}

# What `auto` may choose. Synthetic negatives are painted on pixels, so a score that compares the input's pixels
# with a reconstruction sees the paint itself and wins on them, whatever it does on real defects (docs/numbers.md).
# These see an image through its codes alone.
CANDIDATES = ("restored", "likelihood", "restored_likelihood", "likelihood+restored")


@dataclass(frozen=True)
class Detector:
    """Everything between an image and its score map."""

    vqvae: VQVAE
    prior: PixelSNAIL
    eta: float
    neighbour_rule: bool
    bilateral: tuple[float, ...]
    standards: Mapping[str, Standard] = field(default_factory=dict)

    def look(self, image: Tensor, names: Iterable[str] = MAPS) -> tuple[dict[str, np.ndarray], Evidence]:
        """The base maps in `names`, float32 (B, S, S), and the evidence, for images (B, C, S, S) in [0, 1]."""
        evidence = examine(self.vqvae, self.prior, image, self.eta, self.neighbour_rule)
        return base_maps(evidence, self.bilateral, names), evidence

    def score(self, maps: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        """The score map float32 (B, S, S) called `name` in SCORES; UserError for another name."""
        if name not in SCORES:
            raise UserError(f"score '{name}' is not known; use auto or one of {', '.join(SCORES)}")
        if name == "restored":
            return maps[name]
        parts = [self.standards[part].apply(maps[part]) for part in SCORES[name]]
        return np.stack(parts).sum(0).astype(np.float32)
