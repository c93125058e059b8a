"""Stage `train_vqvae`: Eq. 3 on the augmented normal images, over their pixels or over a frozen network's features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components import parallel, stage
from components.arrays import open_images, to_tensor
from components.device import autocast, find_device, place
from components.errors import UserError
from components.features.backbone import find_weights, pretrained
from components.features.model import FeatureVQVAE
from components.settings import VQVAE as Config
from components.settings import Settings
from components.training import Plan, batch_indices, fit
from components.vqvae.codebook import usage
from components.vqvae.model import VQVAE
from components.vqvae.patches import CELL, PatchVQVAE

VALIDATIONS = 30  # over the whole training
SAMPLE = 64  # images that validate, and as many that say what the features' mean and scale are
# What every model was before the settings named it.
BEFORE = {"latent": "pixels", "allocation": "fixed", "budget": 1.0, "budget_weight": 0.0, "zoom": 1.0}

Model = VQVAE | FeatureVQVAE


def run(root: Path, settings: Settings) -> None:
    """Write model.safetensors, curves.csv (reconstruction, commitment, codes used, perplexity) and
    summary.json."""
    source = stage.folder(root, settings.category, "augment")
    facts = stage.read_json(source / "summary.json")
    train, val = open_images(source, "train"), open_images(source, "val")
    config, device = settings.vqvae, find_device()
    model = place(build(int(facts["channels"]), config), device)
    inputs = [source / "images-train.npy"]
    if isinstance(model, FeatureVQVAE):
        inputs.append(find_weights())
        model.backbone.load_state_dict(pretrained().state_dict())
        model.standardise(to_tensor(train[:: -(-len(train) // SAMPLE)], facts["white"], device))
    if model.allocates and int(facts["size"]) // config.downsample % CELL:
        raise UserError(
            f"{facts['size']} // {config.downsample} positions to a side cannot be allocated in pairs; "
            "use an even grid or vqvae.allocation: fixed"
        )
    batch = min(config.batch, len(train))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        indices = parallel.share(batch_indices(settings.seed, step, len(train), batch))
        x = to_tensor(train[indices], facts["white"], device)
        with autocast(device):
            loss, error, _, codebook, commitment = model.losses(x)
        return loss + codebook + config.beta * commitment, {
            "reconstruction": error.item(),
            "commitment": commitment.item(),
        }

    def validate() -> dict[str, float]:
        _, error, codes, _, _ = model.losses(to_tensor(val[:SAMPLE], facts["white"], device))
        used, perplexity = usage(codes, config.codebook_size)
        coarse = model.coarse(codes)
        return {
            "val_reconstruction": error.item(),
            "codes_used": used,
            "perplexity": perplexity,
        } | ({} if coarse is None else {"fine_share": 1 - coarse.float().mean().item()})

    plan = Plan(f"train_vqvae@{settings.category}", config.steps, config.learning_rate,
                max(config.steps // VALIDATIONS, 1), settings.seed)  # fmt: skip
    checkpoint = stage.checkpoint_path(root, settings.category, "train_vqvae")
    curves = fit(plan, model, loss_of, validate, checkpoint,
                 stage.inputs_key((settings.seed, config), *inputs))  # fmt: skip
    if parallel.rank():
        return  # the first process writes what all of them have
    out = stage.fresh_folder(root, settings.category, "train_vqvae")
    save_file(stored(model), out / "model.safetensors")
    curves.to_csv(out / "curves.csv", index=False)
    last = curves.iloc[-1]
    stage.write_json(out / "summary.json", {
        "image_channels": int(facts["channels"]), "white": facts["white"], "size": facts["size"],
        "grid": int(facts["size"]) // config.downsample, "policy": facts["policy"],
        "config": config.__dict__, "backbone": stage.file_sha256(inputs[1]) if inputs[1:] else None,
        "val_reconstruction": float(last.val_reconstruction),
        "codes_used": int(last.codes_used), "perplexity": float(last.perplexity),
    })  # fmt: skip
    checkpoint.unlink(missing_ok=True)


def build(image_channels: int, config: Config) -> Model:
    """An untrained model over pixels or features, with codes of one size or two, as `config` says.

    Raises UserError for codes of two sizes over features, or of an odd number of codes.
    """
    if config.allocation == "fixed":
        return (FeatureVQVAE if config.latent == "features" else VQVAE)(image_channels, config)
    if config.latent == "features":
        raise UserError("vqvae.allocation: context is over pixels; use allocation: fixed or latent: pixels")
    if config.codebook_size % 2:
        raise UserError(f"vqvae.codebook_size {config.codebook_size} has no two halves; use an even number")
    return PatchVQVAE(image_channels, config)


def described(facts: Mapping[str, Any]) -> Model:
    """The untrained model that a summary.json or a bundle describes. What it does not say is from before there was a
    choice."""
    return build(int(facts["image_channels"]), Config(**(BEFORE | facts["config"])))


def stored(model: Model) -> dict[str, Tensor]:
    """The state to keep. Over features all but the codebook goes to half precision: the package is to be light,
    and what is calibrated is loaded from these bytes, so nothing later sees other weights."""
    light = isinstance(model, FeatureVQVAE)
    return {
        name: (value.half() if light and value.is_floating_point() and "codebook" not in name else value).contiguous()
        for name, value in model.state_dict().items()
    }


def load(folder: Path, device: torch.device) -> Model:
    """The trained model of a `train_vqvae` folder, ready to encode and decode."""
    model = described(stage.read_json(folder / "summary.json"))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return place(model, device).eval()
