"""Stage `package`: one folder with all that inspection needs, and nothing else."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file, save_file

from components import stage
from components.settings import Settings

FORMAT = 1  # of the bundle; a reader refuses what it does not know


def run(root: Path, settings: Settings) -> None:
    """Write model.safetensors (weights and standards) and bundle.json (how to build the models, the
    calibration, the sha256 of the weights)."""
    vqvae, prior, calibrate = (
        stage.folder(root, settings.category, name) for name in ("train_vqvae", "train_prior", "calibrate")
    )
    sources = {
        "vqvae": vqvae / "model.safetensors",
        "prior": prior / "model.safetensors",
        "standards": calibrate / "standards.safetensors",
    }
    tensors = {f"{name}.{key}": value for name, path in sources.items() for key, value in load_file(path).items()}
    out = stage.fresh_folder(root, settings.category, "package")
    save_file(tensors, out / "model.safetensors")
    bundle = {
        "format": FORMAT,
        "category": settings.category,
        "vqvae": stage.read_json(vqvae / "summary.json"),
        "prior": stage.read_json(prior / "summary.json"),
        "calibration": stage.read_json(calibrate / "calibration.json"),
        "sha256": stage.file_sha256(out / "model.safetensors"),
    }
    stage.write_json(out / "bundle.json", bundle)
