"""Stage `train_vqvae`: Eq. 3 on the augmented normal images."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from components import stage
from components.arrays import open_images, to_tensor
from components.device import autocast, find_device, place
from components.settings import Settings
from components.training import Plan, batch_indices, fit
from components.vqvae.codebook import usage
from components.vqvae.model import VQVAE

VALIDATIONS = 30  # over the whole training


def run(root: Path, settings: Settings) -> None:
    """Write model.safetensors, curves.csv (reconstruction, commitment, codes used, perplexity) and
    summary.json."""
    source = stage.folder(root, settings.category, "augment")
    facts = stage.read_json(source / "summary.json")
    train, val = open_images(source, "train"), open_images(source, "val")
    config, device = settings.vqvae, find_device()
    model = place(VQVAE(int(facts["channels"]), config), device)
    batch = min(config.batch, len(train))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        x = to_tensor(train[batch_indices(settings.seed, step, len(train), batch)], facts["white"], device)
        with autocast(device):
            reconstruction, _, codebook, commitment = model(x)
        error = F.mse_loss(reconstruction.float(), x)
        # Both terms of Eq. 3 are sums over elements in the paper; per-element means keep beta's meaning
        # whatever the size, with the reconstruction scaled by the data's variance (van den Oord 2017).
        loss = error / x.var() + codebook + config.beta * commitment
        return loss, {"reconstruction": error.item(), "commitment": commitment.item()}

    def validate() -> dict[str, float]:
        x = to_tensor(val[:64], facts["white"], device)
        reconstruction, codes, _, _ = model(x)
        used, perplexity = usage(codes, config.codebook_size)
        return {
            "val_reconstruction": F.mse_loss(reconstruction, x).item(),
            "codes_used": used,
            "perplexity": perplexity,
        }

    plan = Plan(f"train_vqvae@{settings.category}", config.steps, config.learning_rate,
                max(config.steps // VALIDATIONS, 1), settings.seed)  # fmt: skip
    checkpoint = stage.checkpoint_path(root, settings.category, "train_vqvae")
    curves = fit(plan, model, loss_of, validate, checkpoint,
                 stage.inputs_key((settings.seed, config), source / "images-train.npy"))  # fmt: skip
    out = stage.fresh_folder(root, settings.category, "train_vqvae")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")
    curves.to_csv(out / "curves.csv", index=False)
    last = curves.iloc[-1]
    stage.write_json(out / "summary.json", {
        "image_channels": int(facts["channels"]), "white": facts["white"], "size": facts["size"],
        "grid": int(facts["size"]) // config.downsample, "policy": facts["policy"],
        "config": config.__dict__, "val_reconstruction": float(last.val_reconstruction),
        "codes_used": int(last.codes_used), "perplexity": float(last.perplexity),
    })  # fmt: skip
    checkpoint.unlink(missing_ok=True)


def load(folder: Path, device: torch.device) -> VQVAE:
    """The trained model of a `train_vqvae` folder, ready to encode and decode."""
    from safetensors.torch import load_file

    from components.settings import VQVAE as Config

    facts = stage.read_json(folder / "summary.json")
    model = VQVAE(int(facts["image_channels"]), Config(**facts["config"]))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return place(model, device).eval()
