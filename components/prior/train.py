"""Stage `train_prior`: PixelSNAIL by cross-entropy on the codes, stopped by held-out normal images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from components import parallel, stage
from components.arrays import evenly
from components.device import autocast, find_device, place
from components.prior.pixelsnail import PixelSNAIL, reorder
from components.settings import Prior as Config
from components.settings import Settings
from components.training import Plan, batch_indices, fit

VALIDATIONS = 30
VALIDATED = 256  # images that validate: a quarter of a million codes say what more of them would


def run(root: Path, settings: Settings) -> None:
    """Write model.safetensors (the weights with the lowest cross-entropy on `val`), curves.csv and
    summary.json. Cross-entropies are in nats per code."""
    source = stage.folder(root, settings.category, "extract_codes")
    facts = stage.read_json(source / "summary.json")
    config, device = settings.prior, find_device()
    with np.load(source / "codes.npz") as stored:
        train, val = (torch.from_numpy(stored[part]) for part in ("train", "val"))
    val = val[evenly(len(val), VALIDATED)]
    model = place(PixelSNAIL(int(facts["codebook_size"]), int(facts["grid"]), config), device)
    batch = min(config.batch, len(train))

    def cross_entropy(codes: Tensor, order: int) -> Tensor:
        codes = reorder(codes.to(device).long(), order)
        with autocast(device):
            logits = model(codes, order=order)
        return F.cross_entropy(logits.float(), codes)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        indices = parallel.share(batch_indices(settings.seed, step, len(train), batch))
        loss = cross_entropy(train[indices], step % config.orders)
        return loss, {"loss": loss.item()}

    def validate() -> dict[str, float]:
        # As plain numbers: tensors that live on, between those that do not, would leave holes in the heap.
        losses = [
            cross_entropy(some, order).item() * len(some) for some in val.split(batch) for order in range(config.orders)
        ]
        return {"val_loss": sum(losses) / len(val) / config.orders}

    plan = Plan(f"train_prior@{settings.category}", config.steps, config.learning_rate,
                max(config.steps // VALIDATIONS, 1), settings.seed, config.patience)  # fmt: skip
    checkpoint = stage.checkpoint_path(root, settings.category, "train_prior")
    curves = fit(plan, model, loss_of, validate, checkpoint,
                 stage.inputs_key((settings.seed, config, VALIDATED), source / "codes.npz"))  # fmt: skip
    if parallel.rank():
        return  # the first process writes what all of them have
    out = stage.fresh_folder(root, settings.category, "train_prior")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")
    curves.to_csv(out / "curves.csv", index=False)
    stage.write_json(out / "summary.json", {
        "codebook_size": facts["codebook_size"], "grid": facts["grid"], "config": config.__dict__,
        "val_loss": float(curves.val_loss.min()), "steps": int(curves.step.max()),
    })  # fmt: skip
    checkpoint.unlink(missing_ok=True)


def load(folder: Path, device: torch.device) -> PixelSNAIL:
    """The trained prior of a `train_prior` folder, in float32: its likelihoods decide."""
    facts = stage.read_json(folder / "summary.json")
    model = PixelSNAIL(int(facts["codebook_size"]), int(facts["grid"]), Config(**facts["config"]))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return place(model, device).eval()
