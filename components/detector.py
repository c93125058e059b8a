"""The detector: both models, eta, a score and its standards. Calibration fits one, the package holds one,
evaluation and inspection run one; so what is served is what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from components.errors import UserError
from components.features.model import FeatureVQVAE
from components.normality.model import Normality
from components.prior.pixelsnail import PixelSNAIL
from components.scoremap import Evidence, base_maps, examine
from components.scores import AS_DRAWN, TWO_SIDED, WEIGHTS, Kind, kind_of
from components.standard import Standard
from components.vqvae.model import VQVAE


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
        return kind_of(self.vqvae.latent, self.vqvae.allocates, self.normality is not None)

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
        if name == AS_DRAWN:
            return maps[name]
        parts = []
        for part in self.scores[name]:
            deviations = self.standards[part].apply(maps[part])
            parts.append(WEIGHTS.get(part, 1.0) * (np.abs(deviations) if part in TWO_SIDED else deviations))
        return np.stack(parts).sum(0).astype(np.float32)
