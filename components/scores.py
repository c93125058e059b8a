"""The names of base maps and scores: which there are of each kind of model, and what a score is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

PIXEL_MAPS = ("restored", "input_restored", "reconstruction", "likelihood", "restored_likelihood")
BUDGET_MAPS = ("budget",)  # beside them, where the model allocates its codes by context
FEATURE_MAPS = ("residual", "deviation", "mahalanobis", "layers", "wide", "likelihood", "restored_likelihood")
DIFFERENCES = ("restored", "reconstruction", "input_restored")  # in grey values, 0..255

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
    "wide": ("wide",),
    "layers+residual": ("layers", "residual"),
    "mahalanobis+residual": ("mahalanobis", "residual"),
    "mahalanobis+deviation": ("mahalanobis", "deviation"),
    "mahalanobis+likelihood": ("mahalanobis", "restored_likelihood"),
    "restored_likelihood": ("restored_likelihood",),
}
FEATURE_CANDIDATES = (
    "residual", "mahalanobis", "layers", "layers+residual", "mahalanobis+residual", "mahalanobis+deviation",
)  # fmt: skip
# Each of them can have the wide view beside it, with less weight: it marks more than a small defect covers.
FEATURE_WIDER = {name: f"{name}+wide" for name in FEATURE_CANDIDATES}
FEATURE_SCORES |= {wider: (*FEATURE_SCORES[name], "wide") for name, wider in FEATURE_WIDER.items()}
WEIGHTS = {"wide": 0.2}  # in a sum; of all others 1
SCORES = PIXEL_SCORES | BUDGET_SCORES | FEATURE_SCORES


@dataclass(frozen=True)
class Kind:
    """What can be drawn of a kind of model: its base `maps`, the `scores` made of them, and the `candidates` among
    these that `auto` may choose; `wider` is each candidate's score with the wide view beside it."""

    maps: tuple[str, ...]
    scores: dict[str, tuple[str, ...]]
    candidates: tuple[str, ...]
    wider: dict[str, str] = field(default_factory=dict)


PIXELS = Kind(PIXEL_MAPS, PIXEL_SCORES, PIXEL_CANDIDATES)
PATCHES = Kind(PIXEL_MAPS + BUDGET_MAPS, PIXEL_SCORES | BUDGET_SCORES, PIXEL_CANDIDATES + BUDGET_CANDIDATES)
FEATURES = Kind(FEATURE_MAPS, FEATURE_SCORES, FEATURE_CANDIDATES, FEATURE_WIDER)


def kind_of(latent: str, allocates: bool) -> Kind:
    """The kind of a model over `latent` (pixels | features) that allocates its codes by context or does not."""
    if latent == "features":
        return FEATURES
    return PATCHES if allocates else PIXELS


def least(name: str) -> float:
    """The smallest deviation between normal images that says anything in the map `name`: a grey value of a difference
    of pictures, a hundredth of a nat or of a probability."""
    return 1.0 if name in DIFFERENCES else 0.01
