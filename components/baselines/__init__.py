"""The papers' baselines, trained on the same arrays and by the same loop as the method. One file each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.baselines.ae_l2 import AEL2
from components.baselines.ae_ssim import AESSIM
from components.baselines.f_anogan import FAnoGAN
from components.baselines.feature_dictionary import FeatureDictionary
from components.baselines.job import Baseline, Frame
from components.baselines.settings import Baselines
from components.baselines.texture_mixture import TextureMixture
from components.baselines.vae_attention import VAEAttention

CLASSES: dict[str, type[Baseline]] = {
    "ae_l2": AEL2,
    "ae_ssim": AESSIM,
    "vae_attention": VAEAttention,
    "texture_mixture": TextureMixture,
    "f_anogan": FAnoGAN,
    "feature_dictionary": FeatureDictionary,
}


def config_of(name: str, settings: Baselines) -> Any:
    """The baseline's section of the settings."""
    return getattr(settings, name)


def build(name: str, frame: Frame, settings: Baselines) -> Baseline:
    """A baseline before its training; MissingBackboneError where it needs a network that is not installed."""
    kind: Callable[..., Baseline] = CLASSES[name]
    return kind(frame, config_of(name, settings))
