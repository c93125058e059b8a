"""Settings: read once from params.yaml and the file it names, frozen, unknown keys refused.

`params.yaml` says which settings file is in force, which categories exist and what each overrides;
`settings/<name>.yaml` holds every value. The dataclasses below hold no defaults, so that each value
stands in one place only.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from components.errors import UserError
from components.reading import FILE_NAME, LARGEST, mapping, short
from components.reading import read_yaml as read_yaml
from components.scores import kind_of

POLICIES = ("object", "rotation_free", "texture")
LATENTS = ("pixels", "features")
ALLOCATIONS = ("fixed", "context")
NEW = "new"
PARTS = (NEW, "known")  # those to come


@dataclass(frozen=True)
class Dataset:
    """How the normal images of train/good are split and what is too little or too large."""

    size: int  # model input, pixels per side
    val_fraction: float  # share of train/good that stops the training
    calib_fraction: float  # share of train/good that sets thresholds
    min_images: int  # fewer normal images than this are refused
    max_megapixels: float  # larger images are refused (decompression bombs)


@dataclass(frozen=True)
class Augment:
    """Augmentation policy of Wang et al. 2020, section 4.3.1, and its size."""

    policy: str  # object: +-degrees; rotation_free: quarter turns and flips; texture: the same and crops
    images: int  # augmented training images to draw (at least one per training image)
    degrees: float  # half range of the rotation for `object`
    crop: float  # smallest side of a random crop, as a share of the image, for `texture`
    brightness: float  # half range of the additive illumination jitter, share of full scale
    contrast: float  # half range of the multiplicative jitter


@dataclass(frozen=True)
class VQVAE:
    """The vector-quantised autoencoder: its size and training."""

    latent: str  # pixels: codes of the image itself; features: of what a frozen network sees in it
    allocation: str  # fixed: a code for every position; context: one for four where there is little to tell (pixels)
    budget: float  # share of positions with a code of their own that `context` aims at, more in rich regions
    budget_weight: float  # of the loss of leaving that budget
    zoom: float  # how much larger the frozen network sees the image, 1 to 4 (features)
    downsample: int  # image side over grid side, a power of two
    channels: int  # of the hidden layers; the first, at the largest size, has half
    residual_blocks: int  # in the encoder, and as many in the decoder
    codebook_size: int  # K
    code_dim: int  # D
    codebook: str  # ema: moving averages and revival; loss: the codebook term of Eq. 3
    beta: float  # commitment weight of Eq. 3
    decay: float  # EMA decay
    revive_below: float  # a code used less often than this share of the mean use is drawn anew
    steps: int  # optimiser steps, each on one batch
    batch: int  # images in a step
    learning_rate: float  # highest, after the warm-up


@dataclass(frozen=True)
class Prior:
    """PixelSNAIL over the code grid."""

    channels: int  # of the hidden layers
    blocks: int  # repetitions of one residual and one attention block
    residual_layers: int  # gated residual layers in a residual block
    heads: int  # of the self-attention
    orders: int  # reading orders the prior learns: 1 the raster; 2 also its reverse; 4 also from the other corners
    dropout: float  # in the residual layers
    steps: int  # optimiser steps at most
    batch: int  # code grids in a step
    learning_rate: float  # highest, after the warm-up
    patience: int  # validations without improvement before it stops; 0 never stops early


@dataclass(frozen=True)
class Calibrate:
    """What is chosen on held-out normal images and the negatives made from them."""

    etas: tuple[float, ...]  # the grid searched for the likelihood threshold
    max_replaced: float  # largest share of codes of normals that an eta may replace
    neighbour_rule: bool  # Eq. 5's local constraint
    rectangle_area: float  # the paper's painted rectangles, share of the image
    images: int  # at most so many calibration images are looked at
    negatives: int  # painted negatives of each kind, made from as many calibration images
    min_area: float  # smallest region that counts, share of the image
    false_alarms: float  # share of normal images that the threshold is to let through as defective
    parts: str  # the parts to come: new, or known where the normal images show the same ones
    score: str  # one of components/scores.py, or auto: chosen on the painted negatives
    bilateral: tuple[float, ...]  # d, sigma colour, sigma space, on the 0-255 scale


@dataclass(frozen=True)
class Evaluate:
    """Evaluation protocol."""

    aupro_limit: float  # integrate PRO up to this false-positive rate
    gallery: int  # pictures per defect type


@dataclass(frozen=True)
class Promotion:
    """Who may promote: `auto` once the gates pass, or `manual` by a named person."""

    policy: str


@dataclass(frozen=True)
class Settings:
    """Everything a stage may ask for, resolved for one category."""

    category: str
    seed: int
    dataset: Dataset
    augment: Augment
    vqvae: VQVAE
    prior: Prior
    calibrate: Calibrate
    evaluate: Evaluate
    promotion: Promotion


SECTIONS: dict[str, type] = {
    "dataset": Dataset, "augment": Augment, "vqvae": VQVAE, "prior": Prior,
    "calibrate": Calibrate, "evaluate": Evaluate, "promotion": Promotion,
}  # fmt: skip
FEATURES = "features"  # the section with what `latent: features` changes of the others
PARAMS_KEYS = ("settings", "seed", "categories", "overrides")
CHOICES = {
    ("augment", "policy"): POLICIES,
    ("vqvae", "codebook"): ("ema", "loss"),
    ("vqvae", "latent"): LATENTS,
    ("vqvae", "allocation"): ALLOCATIONS,
    ("calibrate", "parts"): PARTS,
    ("promotion", "policy"): ("auto", "manual"),
}
# Numbers are 0 or more; whole ones 1 or more, but for these; and these shares are below 1.
MAY_BE_NONE = (
    ("vqvae", "residual_blocks"),
    ("prior", "residual_layers"),
    ("prior", "patience"),
    ("evaluate", "gallery"),
)
SHARES = (
    ("dataset", "val_fraction"), ("dataset", "calib_fraction"), ("vqvae", "decay"), ("prior", "dropout"),
    ("calibrate", "max_replaced"), ("calibrate", "rectangle_area"), ("calibrate", "min_area"),
    ("calibrate", "false_alarms"),
)  # fmt: skip
COARSEST = 16  # pixels of the coarsest cell of the features
LARGEST_ZOOM = 4  # beyond, a cell of the finest layer is smaller than a pixel


def find_root(start: Path | None = None) -> Path:
    """Return the nearest folder at or above `start` (default: the current one) with dvc.yaml and params.yaml.

    Raises UserError when there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise UserError(f"{here} is not inside a Kintsugi workspace (no dvc.yaml and params.yaml); cd into one")


def read_params(root: Path) -> dict[str, Any]:
    """Return params.yaml's mapping with its top-level keys checked."""
    params = read_yaml(root / "params.yaml")
    check_known(params, PARAMS_KEYS, "params.yaml")
    for key in PARAMS_KEYS:
        if key not in params:
            raise UserError(f"params.yaml lacks '{key}'; restore it from git")
    if not FILE_NAME.fullmatch(str(params["settings"])):
        named = short(params["settings"])
        raise UserError(f"params.yaml settings is {named}; it must name a file of settings/, for example standard")
    if not isinstance(params["categories"] or [], list):
        raise UserError("params.yaml categories must be a list of names")
    mapping(params["overrides"], "params.yaml overrides")
    convert(params["seed"], int, "params.yaml seed")
    return params


def load(root: Path, category: str, vqvae: dict[str, Any] | None = None) -> Settings:
    """Resolve the settings of one category; `vqvae` overrides its overrides, for what is tried beside them.

    Raises UserError for a category that was never imported, an unknown key (the nearest valid name is
    offered), a missing key, a value of the wrong type or out of its range, and values that cannot go together.
    """
    params = read_params(root)
    known = [str(name) for name in params["categories"] or []]
    if category not in known:
        raise UserError(f"category '{category}' is not in params.yaml{nearest(category, known)}; import it first")
    source = f"settings/{params['settings']}.yaml"
    base = read_yaml(root / source)
    check_known(base, (*SECTIONS, FEATURES), source)
    overrides = mapping(mapping(params["overrides"], "").get(category), f"params.yaml overrides.{category}")
    check_known(overrides, tuple(SECTIONS), f"params.yaml overrides.{category}")
    overrides |= {"vqvae": mapping(overrides.get("vqvae"), "overrides vqvae") | (vqvae or {})}
    theirs = mapping(base.get(FEATURES), f"{source} {FEATURES}")
    check_known(theirs, tuple(SECTIONS), f"{source} {FEATURES}")
    own = (mapping(base.get("vqvae"), f"{source} vqvae"), mapping(overrides.get("vqvae"), "overrides vqvae"))
    latent = (own[0] | own[1]).get("latent")
    sections: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        keys = tuple(f.name for f in fields(cls))
        values = mapping(base.get(name), f"{source} {name}")
        of_features = mapping(theirs.get(name), f"{source} {FEATURES}.{name}")
        extra = mapping(overrides.get(name), f"params.yaml overrides.{category}.{name}")
        for given, where in (
            (values, f"{source} {name}"), (of_features, f"{source} {FEATURES}.{name}"),
            (extra, f"params.yaml overrides.{category}.{name}"),
        ):  # fmt: skip
            check_known(given, keys, where)
        values |= (of_features if latent == FEATURES else {}) | extra
        sections[name] = build(cls, values, f"{source} {name}")
    settings = Settings(category=category, seed=int(params["seed"]), **sections)
    check_together(settings, source)
    return settings


def check_together(settings: Settings, where: str) -> None:
    """UserError for values that are right by themselves and cannot be built together: told before hours of training."""
    size, vqvae, prior, calibrate = settings.dataset.size, settings.vqvae, settings.prior, settings.calibrate
    down = vqvae.downsample
    if down < 2 or down & (down - 1):
        raise UserError(f"{where} vqvae.downsample is {down}; it must be a power of two, 2 or more")
    if not 1 <= vqvae.zoom <= LARGEST_ZOOM:
        raise UserError(f"{where} vqvae.zoom is {vqvae.zoom:g}; it must be 1 to {LARGEST_ZOOM}")
    context = vqvae.allocation == "context"
    cell = COARSEST if vqvae.latent == FEATURES else 2 * down if context else down
    if size % cell:
        raise UserError(f"{where} dataset.size is {size}; with the other settings it must be a multiple of {cell}")
    if prior.channels % prior.heads:
        raise UserError(
            f"{where} prior.channels is {prior.channels}; it must be a multiple of prior.heads, {prior.heads}"
        )
    if prior.orders not in (1, 2, 4):
        raise UserError(f"{where} prior.orders is {prior.orders}; it must be 1, 2 or 4")
    scores = kind_of(vqvae.latent, context, True).scores
    if calibrate.score != "auto" and calibrate.score not in scores:
        raise UserError(
            f"{where} calibrate.score is {short(calibrate.score)}, which models over {vqvae.latent} have not; "
            f"use auto or one of {', '.join(scores)}"
        )


def load_dataset(root: Path) -> Dataset:
    """The `dataset` section of the settings file in force, for a category that params.yaml does not name yet."""
    source = f"settings/{read_params(root)['settings']}.yaml"
    values = mapping(read_yaml(root / source).get("dataset"), f"{source} dataset")
    built: Dataset = build(Dataset, values, f"{source} dataset")
    return built


def build(cls: type, values: dict[str, Any], where: str) -> Any:
    """A settings dataclass from a mapping that has all of its fields and no others.

    Raises UserError, with `where` for its place, for an unknown key, a missing one, a value of another type or one
    that CHOICES does not allow.
    """
    hints = get_type_hints(cls)
    check_known(values, tuple(hints), where)
    built = {}
    for key, kind in hints.items():
        if key not in values:
            raise UserError(f"{where} lacks '{key}'; add it")
        built[key] = convert(values[key], kind, f"{where}.{key}")
        _check_range(cls, key, built[key], f"{where}.{key}")
        allowed = next((words for (name, k), words in CHOICES.items() if k == key and SECTIONS[name] is cls), None)
        if allowed and built[key] not in allowed:
            raise UserError(f"{where}.{key} is '{built[key]}'; use one of {', '.join(allowed)}")
    return cls(**built)


def _check_range(cls: type, key: str, value: Any, where: str) -> None:
    name = next((name for name, section in SECTIONS.items() if section is cls), None)
    if name is None or isinstance(value, bool | str):
        return
    numbers = value if isinstance(value, tuple) else (value,)
    least = 1 if isinstance(value, int) and (name, key) not in MAY_BE_NONE else 0
    if min(numbers) < least:
        raise UserError(f"{where} is {short(value)}; it must be {least} or more")
    if (name, key) in SHARES and max(numbers) >= 1:
        raise UserError(f"{where} is {short(value)}; it is a share and must be below 1")


def convert(value: Any, kind: Any, where: str) -> Any:
    """`value` as a `kind`: float (whole numbers too), int, bool, str or a tuple of floats; UserError otherwise."""
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST:
        return float(value)  # NaN and infinity are not less than anything
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind == tuple[float, ...] and isinstance(value, list) and value:
        return tuple(convert(v, float, where) for v in value)
    name = getattr(kind, "__name__", "list of numbers")
    raise UserError(f"{where} is {short(value)}; it must be a {name}")


def check_known(given: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
    """UserError for a key that is not among those allowed; the nearest one is offered."""
    for key in given:
        if key not in allowed:
            raise UserError(f"{where} has an unknown setting '{key}'{nearest(str(key), list(allowed))}")


def nearest(name: str, allowed: list[str]) -> str:
    """The end of a message about `name`: the closest of those allowed, or all of them."""
    match = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else f" (valid: {', '.join(allowed) or 'none yet'})"
