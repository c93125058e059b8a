"""Settings of the baselines: settings/baselines.yaml, read into frozen dataclasses that hold no defaults.

They stand apart from the method's settings because no stage depends on them: another baseline must not make
a model stale.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from components.errors import UserError
from components.settings import build, check_known, read_yaml

FILE = "settings/baselines.yaml"


@dataclass(frozen=True)
class Autoencoder:
    """The convolutional autoencoder of AE-L2 and AE-SSIM."""

    channels: int  # of the first layer
    latent: int  # numbers in the bottleneck
    steps: int  # optimiser steps
    batch: int  # images in a step
    learning_rate: float  # highest, after the warm-up


@dataclass(frozen=True)
class VAEAttention:
    """The variational autoencoder whose latents are explained by attention."""

    channels: int  # of the first layer
    side: int  # of the feature maps that the attention is drawn on
    hidden: int  # units between those maps and the latents
    latent: int  # latents
    variance: float  # of the decoder's Gaussian; larger trusts the reconstruction less
    steps: int  # optimiser steps
    batch: int  # images in a step
    learning_rate: float  # highest, after the warm-up


@dataclass(frozen=True)
class TextureMixture:
    """The Gaussian mixture of patches (texture inspection)."""

    levels: int  # of the image pyramid
    patch: int  # side of a patch, odd
    dimensions: int  # numbers that a patch is projected to
    components: int  # Gaussians
    patches: int  # drawn at each level to fit them


@dataclass(frozen=True)
class FAnoGAN:
    """The generative adversarial network and its encoder."""

    side: int  # images are made this small: 4 times a power of two
    channels: int  # of the largest layer
    latent: int  # numbers that the generator starts from
    critic_steps: int  # steps of the critic for each of the generator
    penalty: float  # weight of the critic's gradient penalty
    kappa: float  # weight of the critic's features in the encoder's loss
    steps: int  # of critic and generator together
    encoder_steps: int  # steps of the encoder
    batch: int  # images in a step
    learning_rate: float  # highest, after the warm-up


@dataclass(frozen=True)
class FeatureDictionary:
    """The dictionary of a frozen network's features."""

    words: int  # k-means centres
    neighbours: int  # nearest words whose distances are averaged
    vectors: int  # features drawn to find the words


@dataclass(frozen=True)
class Baselines:
    """All of them."""

    ae_l2: Autoencoder
    ae_ssim: Autoencoder
    vae_attention: VAEAttention
    texture_mixture: TextureMixture
    f_anogan: FAnoGAN
    feature_dictionary: FeatureDictionary


def load(root: Path) -> Baselines:
    """Read settings/baselines.yaml of a workspace.

    Raises UserError for an unknown key (the nearest valid one is offered), a missing one or a value of the
    wrong type.
    """
    given = read_yaml(root / FILE)
    sections = get_type_hints(Baselines)
    check_known(given, tuple(sections), FILE)
    return Baselines(**{name: _section(cls, dict(given.get(name) or {}), name) for name, cls in sections.items()})


def _section(cls: type, values: dict[str, Any], name: str) -> Any:
    where = f"{FILE} {name}"
    built = build(cls, values, where)
    for key, value in asdict(built).items():
        if value <= 0:
            raise UserError(f"{where}.{key} is {value}; it must be above 0")
    return built
