"""Training: images per second of the stage's own loop on stored images against the bare model on one random tensor.

    PYTHONPATH=. python benchmarks/training.py [--images 2000] [--steps 46]

Wants a quiet machine, and takes less than a minute on two idle cores. Builds its own random images, so that it needs no
data. The loop is `components.training.fit` with all that it does beside the model: batches drawn and read, gradients
clipped, one validation in 46 steps as in the stage, reports, a checkpoint. Bare is forward, loss, backward and the
optimiser's step, nothing else. The two take turns, step by step, so that a drift of the machine's speed falls on both.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.arrays import new_images, open_images, to_tensor
from components.device import autocast, find_device, place
from components.settings import VQVAE as Config
from components.settings import find_root, read_yaml
from components.training import Plan, batch_indices, fit
from components.vqvae.model import VQVAE
from components.vqvae.train import SAMPLE

SIDE = 256
STEPS = 46  # of the stage's 1,400, between two of its 30 validations
WARM = 2


def random_images(folder: Path, count: int) -> None:
    """images-train.npy with `count` images of noise."""
    rng = np.random.default_rng(0)
    with new_images(folder / "images-train.npy", (count, SIDE, SIDE, 3), np.dtype(np.uint8)) as file:
        for _ in range(count):
            file.write(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8).tobytes())


def compare(folder: Path, config: Config, steps: int) -> dict[str, float]:
    """Steps per second of the loop and of the bare model."""
    device = find_device()
    model = place(VQVAE(3, config), device).train()
    bare = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(bare.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01)
    random = torch.rand(config.batch, 3, SIDE, SIDE).to(device, memory_format=torch.channels_last)
    images = open_images(folder, "train")
    spent = {"bare": 0.0, "warm-up": 0.0}

    def loss_of(network: VQVAE, x: Tensor) -> tuple[Tensor, float]:
        with autocast(device):
            loss, error, _, codebook, commitment = network.losses(x)
        return loss + codebook + config.beta * commitment, error.item()

    def bare_step() -> None:
        loss, _ = loss_of(bare, random)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def turn(step: int) -> tuple[Tensor, dict[str, float]]:
        """What `fit` asks for; the bare model's step is taken, and timed, on the way."""
        if step == WARM:
            spent["warm-up"], spent["bare"] = time.perf_counter() - started, 0.0
        before = time.perf_counter()
        bare_step()
        spent["bare"] += time.perf_counter() - before
        x = to_tensor(images[batch_indices(0, step, len(images), config.batch)], 255.0, device)
        loss, error = loss_of(model, x)
        return loss, {"reconstruction": error}

    def validate() -> dict[str, float]:
        return {"val_loss": loss_of(model, to_tensor(images[:SAMPLE], 255.0, device))[1]}

    plan = Plan("benchmark", steps + WARM, config.learning_rate, steps + WARM, seed=0)
    started = time.perf_counter()
    fit(plan, model, turn, validate, folder / "checkpoint.pt", "none")
    whole = time.perf_counter() - started - spent["warm-up"]
    return {"bare": steps / spent["bare"], "loop": steps / (whole - spent["bare"])}


def main() -> None:
    """Print both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config = Config(**read_yaml(find_root() / "settings" / "standard.yaml")["vqvae"])
    with tempfile.TemporaryDirectory() as folder:
        random_images(Path(folder), options.images)
        rate = compare(Path(folder), config, options.steps)
    print(f"{config.batch} images of {SIDE} x {SIDE} a step, {torch.get_num_threads()} threads")
    print(f"bare {rate['bare']:.2f} steps/s, the stage's loop {rate['loop']:.2f}: {rate['loop'] / rate['bare']:.0%}")


if __name__ == "__main__":
    main()
