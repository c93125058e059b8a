"""Stage `extract_codes`: the latent indices of every image, the prior's training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from components import stage
from components.arrays import open_images, to_tensor
from components.device import find_device
from components.settings import Settings
from components.vqvae.codebook import usage
from components.vqvae.train import load

BATCH = 32


@torch.no_grad()
def run(root: Path, settings: Settings) -> None:
    """Write codes.npz with `train`, `val` and `calib`, each int16 (N, s, s), and summary.json."""
    images = stage.folder(root, settings.category, "augment")
    weights = stage.folder(root, settings.category, "train_vqvae")
    white = stage.read_json(images / "summary.json")["white"]
    device = find_device()
    model = load(weights, device)
    codes: dict[str, np.ndarray] = {}
    for part in ("train", "val", "calib"):
        array = open_images(images, part)
        batches = [  # as int16 at once: in torch's int64 the codes of many images take more room than the network
            model.encode(to_tensor(array[i : i + BATCH], white, device)).cpu().numpy().astype(np.int16)
            for i in range(0, len(array), BATCH)
        ]
        codes[part] = np.concatenate(batches)
        print(f"extract_codes@{settings.category} {part}: {len(array)} images", flush=True)
    out = stage.fresh_folder(root, settings.category, "extract_codes")
    np.savez_compressed(out / "codes.npz", allow_pickle=False, **codes)
    size = len(model.codebook.vectors)
    used, perplexity = usage(torch.from_numpy(codes["train"]), size)
    facts = {
        "codebook_size": size,
        "grid": int(codes["train"].shape[1]),
        "codes_used": used,
        "perplexity": perplexity,
    }
    stage.write_json(out / "summary.json", facts)
