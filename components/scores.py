"""The names of base maps and scores: which there are of each kind of model, and what a score is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What can be drawn of a kind of model: its base `maps`, the `scores` made of them, and the `candidates` among
    these that `auto` may choose."""

    maps: tuple[str, ...]
    scores: dict[str, tuple[str, ...]]
    candidates: tuple[str, ...]

    def __or__(self, other: Kind) -> Kind:
        """All that can be drawn of either."""
        maps = tuple(dict.fromkeys(self.maps + other.maps))
        return Kind(maps, self.scores | other.scores, self.candidates + other.candidates)

    def with_wide(self) -> Kind:
        """The same, and each candidate with the wide view beside it."""
        wider = {f"{name}+wide": (*self.scores[name], "wide") for name in self.candidates}
        return self | Kind(("wide",), {"wide": ("wide",)} | wider, tuple(wider))


# Over pixels. The paper's own score, Eq. 6, stands as it is; all others are standardised first: their size on a normal
# part differs from place to place. Synthetic negatives are painted on pixels, so a score that compares the input's
# pixels with a reconstruction sees the paint itself and wins on them, whatever it does on real defects
# (docs/numbers.md). These candidates see an image through its codes alone.
PIXELS = Kind(
    ("restored", "input_restored", "reconstruction", "likelihood", "restored_likelihood"),
    {
        "restored": ("restored",),
        "reconstruction": ("reconstruction",),
        "input_restored": ("input_restored",),
        "likelihood": ("likelihood",),
        "restored_likelihood": ("restored_likelihood",),
        "likelihood+restored": ("restored_likelihood", "restored"),
        "likelihood+input": ("restored_likelihood", "input_restored"),
    },
    ("restored", "likelihood", "restored_likelihood", "likelihood+restored"),
)
# Of a model that allocates its codes by context (components/vqvae/patches.py): where normal parts get few codes and
# this one gets many, or the other way round, something is other than usual.
BUDGET = Kind(
    ("budget",),
    {
        "budget": ("budget",),
        "likelihood+budget": ("restored_likelihood", "budget"),
        "likelihood+restored+budget": ("restored_likelihood", "restored", "budget"),
    },
    ("likelihood+budget", "likelihood+restored+budget"),
)
# How far an image's residual (components.scoremap), in features or in waves, is from those of normal images.
# What differs from place to place is in components.normality as far as it helps: one standard does for all places.
DISTANCES = Kind(
    ("residual", "deviation", "mahalanobis"),
    {
        "residual": ("residual",),
        "deviation": ("deviation",),
        "mahalanobis": ("mahalanobis",),
        "mahalanobis+residual": ("mahalanobis", "residual"),
        "mahalanobis+deviation": ("mahalanobis", "deviation"),
    },
    ("residual", "mahalanobis", "mahalanobis+residual", "mahalanobis+deviation"),
)
LAYERS = Kind(
    ("layers",), {"layers": ("layers",), "layers+residual": ("layers", "residual")}, ("layers", "layers+residual")
)
# What a place has and what its neighbours lead to expect: where parts lie anyhow, normal images say little of a place.
IN_CONTEXT = Kind(
    ("mahalanobis", "likelihood"),
    {"mahalanobis+likelihood": ("mahalanobis", "likelihood")},
    ("mahalanobis+likelihood",),
)
AFTER_RESTORATION = Kind(
    ("likelihood", "restored_likelihood"),
    {
        "mahalanobis+likelihood": ("mahalanobis", "restored_likelihood"),
        "restored_likelihood": ("restored_likelihood",),
    },
    (),
)
WAVES = (DISTANCES | IN_CONTEXT).with_wide()
FEATURES = (DISTANCES | LAYERS).with_wide() | AFTER_RESTORATION

SCORES = tuple((PIXELS | BUDGET | WAVES | FEATURES).scores)  # all names; what a score is made of is its kind's
AS_DRAWN = "restored"  # the paper's score, in grey values; all others are deviations from what is usual
OF_NORMALITY = (*DISTANCES.maps, *LAYERS.maps, "wide")  # maps of components.normality, distances from normal images
WEIGHTS = {"wide": 0.2}  # in a sum: it marks more than a small defect covers; of all others 1
TWO_SIDED = ("budget",)  # maps that are as suspect below what is usual as above it


def kind_of(latent: str, allocates: bool, compares: bool) -> Kind:
    """The kind of a model over `latent` (pixels | features) that allocates its codes by context or does not, and
    `compares` an image with its reconstruction or, in packages over pixels of before there was a measure, does not."""
    if latent == "features":
        return FEATURES
    kind = PIXELS | BUDGET if allocates else PIXELS
    return kind | WAVES if compares else kind


def least(name: str) -> float:
    """The smallest deviation between normal images that says anything in the map `name`: a grey value of a difference
    of pictures, a hundredth of a nat or of a probability."""
    return 1.0 if name in ("restored", "reconstruction", "input_restored") else 0.01
