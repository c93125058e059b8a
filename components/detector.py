"""The detector: both models, eta, a score and its standards. Calibration fits one, the package holds one,
evaluation and inspection run one; so what is served is what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from components.errors import UserError
from components.features.model import FeatureVQVAE
from components.features.normality import Normality
from components.prior.pixelsnail import PixelSNAIL
from components.scoremap import BUDGET_MAPS, FEATURE_MAPS, PIXEL_MAPS, Evidence, base_maps, examine
from components.standard import Standard
from components.vqvae.model import VQVAE

# What each score is made of. The paper's own, Eq. 6, stands as it is; all others are standardised first: their
# size on a normal part differs from place to place.
PIXEL_SCORES: dict[str, tuple[str, ...]] = {
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
PIXEL_CANDIDATES = ("restored", "likelihood", "restored_likelihood", "likelihood+restored")

# Of a model that allocates its codes by context (components/vqvae/patches.py): where normal parts get few codes and
# this one gets many, or the other way round, something is other than usual.
BUDGET_SCORES: dict[str, tuple[str, ...]] = {
    "budget": ("budget",),
    "likelihood+budget": ("restored_likelihood", "budget"),
    "likelihood+restored+budget": ("restored_likelihood", "restored", "budget"),
}
BUDGET_CANDIDATES = ("likelihood+budget", "likelihood+restored+budget")
TWO_SIDED = ("budget",)  # maps that are as suspect below what is usual as above it

# Over features all see the image through the frozen network. Standardised by one mean and deviation for all
# places: what differs from place to place is in `components.features.normality` already, as far as it helps.
FEATURE_SCORES: dict[str, tuple[str, ...]] = {
    "residual": ("residual",),
    "deviation": ("deviation",),
    "mahalanobis": ("mahalanobis",),
    "layers": ("layers",),
    "layers+residual": ("layers", "residual"),
    "mahalanobis+residual": ("mahalanobis", "residual"),
    "mahalanobis+deviation": ("mahalanobis", "deviation"),
    "mahalanobis+likelihood": ("mahalanobis", "restored_likelihood"),
    "restored_likelihood": ("restored_likelihood",),
}
SCORES = PIXEL_SCORES | BUDGET_SCORES | FEATURE_SCORES
FEATURE_CANDIDATES = (
    "residual", "mahalanobis", "layers", "layers+residual", "mahalanobis+residual", "mahalanobis+deviation",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What can be drawn of a kind of model: its base `maps`, the `scores` made of them, and the `candidates` among
    these that `auto` may choose."""

    maps: tuple[str, ...]
    scores: dict[str, tuple[str, ...]]
    candidates: tuple[str, ...]


PIXELS = Kind(PIXEL_MAPS, PIXEL_SCORES, PIXEL_CANDIDATES)
PATCHES = Kind(PIXEL_MAPS + BUDGET_MAPS, PIXEL_SCORES | BUDGET_SCORES, PIXEL_CANDIDATES + BUDGET_CANDIDATES)
FEATURES = Kind(FEATURE_MAPS, FEATURE_SCORES, FEATURE_CANDIDATES)


@dataclass(frozen=True)
class Detector:
    """Everything between an image and its score map."""

    vqvae: VQVAE | FeatureVQVAE
    prior: PixelSNAIL
    eta: float
    neighbour_rule: bool
    bilateral: tuple[float, ...]
    standards: Mapping[str, Standard] = field(default_factory=dict)
    normality: Normality | None = None

    @property
    def over_features(self) -> bool:
        """Whether the codes are those of features rather than of pixels."""
        return self.vqvae.latent == "features"

    @property
    def kind(self) -> Kind:
        """What can be drawn of a model like this one."""
        if self.over_features:
            return FEATURES
        return PATCHES if self.vqvae.allocates else PIXELS

    @property
    def scores(self) -> dict[str, tuple[str, ...]]:
        """The scores that it knows, each with the base maps it is made of."""
        return self.kind.scores

    def look(self, image: Tensor, names: Iterable[str] | None = None) -> tuple[dict[str, np.ndarray], Evidence]:
        """The base maps in `names` (by default all), float32 (B, S, S), and the evidence, for images
        (B, C, S, S) in [0, 1]."""
        evidence = examine(self.vqvae, self.prior, image, self.eta, self.neighbour_rule)
        wanted = self.kind.maps if names is None else names
        return base_maps(evidence, self.bilateral, wanted, self.normality), evidence

    def score(self, maps: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        """The score map float32 (B, S, S) called `name` in `scores`; UserError for another name."""
        if name not in self.scores:
            raise UserError(f"score '{name}' is not known; use auto or one of {', '.join(self.scores)}")
        if name == "restored":
            return maps[name]
        parts = []
        for part in self.scores[name]:
            deviations = self.standards[part].apply(maps[part])
            parts.append(np.abs(deviations) if part in TWO_SIDED else deviations)
        return np.stack(parts).sum(0).astype(np.float32)
