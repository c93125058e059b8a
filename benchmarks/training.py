"""Training: steps per second on the memory-mapped images against the bare model on one random tensor.

    python benchmarks/training.py [--images 2000] [--steps 20]

Builds its own array of random images, so that it needs no data. The two take turns, step by step, so that a
drift of the machine's speed falls on both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from components.arrays import open_images, to_tensor
from components.device import autocast, find_device, place
from components.settings import VQVAE as Config
from components.settings import find_root, read_yaml
from components.training import batch_indices
from components.vqvae.model import VQVAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    config = Config(**read_yaml(find_root() / "settings" / "standard.yaml")["vqvae"])
    device = find_device()
    model = place(VQVAE(3, config), device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images-train.npy"
        array = np.lib.format.open_memmap(path, "w+", np.uint8, (options.images, 256, 256, 3))
        rng = np.random.default_rng(0)
        for start in range(0, options.images, 100):
            array[start : start + 100] = rng.integers(0, 256, array[start : start + 100].shape, np.uint8)
        array.flush()
        images = open_images(Path(folder), "train")
        random = torch.rand(config.batch, 3, 256, 256).to(device, memory_format=torch.channels_last)
        seconds = {"bare": 0.0, "loaded": 0.0}
        for step in range(-2, options.steps):
            for kind in seconds:
                started = time.perf_counter()
                x = random
                if kind == "loaded":
                    x = to_tensor(images[batch_indices(0, max(step, 0), len(images), config.batch)], 255.0, device)
                with autocast(device):
                    y, _, codebook, commitment = model(x)
                loss = F.mse_loss(y.float(), x) + codebook + config.beta * commitment
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                if step >= 0:
                    seconds[kind] += time.perf_counter() - started
    rate = {kind: options.steps / spent for kind, spent in seconds.items()}
    print(f"{config.batch} images of 256 x 256 a step, {torch.get_num_threads()} threads")
    print(f"bare {rate['bare']:.2f} steps/s, with the loader {rate['loaded']:.2f}: {rate['loaded'] / rate['bare']:.0%}")


if __name__ == "__main__":
    main()
