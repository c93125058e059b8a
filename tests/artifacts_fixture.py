"""A plausible finished category made in a fraction of a second: images, stage outputs, dvc.lock, cache.

Nothing is trained. Hashes, manifest and lock are consistent with the files, as a real run leaves them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from components.stage import STAGES
from flows import fixity

REPO = Path(__file__).resolve().parents[1]
GOOD = {
    "image_auroc": 0.95, "pixel_auroc": 0.93, "aupro_30": 0.8, "pro": 0.7, "image_balanced_accuracy": 0.9,
    "image_f1": 0.9, "pixel_f1": 0.6, "eta": 0.001, "image_threshold": 3.0, "pixel_threshold": 2.0,
    "images_per_second": 4.0, "normal_false_positive_rate": 0.1, "evaluated_on": "test",
    "protocol": "as fabricated for a test",
}  # fmt: skip


def make_workspace(root: Path, policy: str = "auto", categories: tuple[str, ...] = ("brick",)) -> Path:
    """A workspace without DVC's own set-up time: settings, gates, git with one commit, .dvc/config."""
    root.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(REPO / name, root / name)
    for name in ("settings", "mlflow"):
        shutil.copytree(REPO / name, root / name)
    set_params(root, policy, categories)
    (root / ".dvc").mkdir()
    shutil.copy(REPO / ".dvc" / "config", root / ".dvc" / "config")
    (root / ".dvc" / ".gitignore").write_text("/cache\n/tmp\n/config.local\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a workspace"], cwd=root, check=True)
    return root


def set_params(root: Path, policy: str, categories: tuple[str, ...] = ("brick",)) -> None:
    """Rewrite params.yaml with these categories and this promotion policy."""
    overrides = {c: {"promotion": {"policy": policy}} for c in categories}
    params = {"settings": "standard", "seed": 0, "categories": list(categories), "overrides": overrides}
    YAML().dump(params, root / "params.yaml")


@dataclass(frozen=True)
class Fabricator:
    """Writes categories into a workspace; `seed` makes another model, `images` another data version."""

    root: Path

    def __call__(self, category: str = "brick", seed: int = 0, images: int = 0, **metrics: Any) -> Path:
        """Write data and artifacts of one finished category and record them; returns artifacts/<category>."""
        data, artifacts = self.root / "data" / category, self.root / "artifacts" / category
        for folder in (data, artifacts):
            shutil.rmtree(folder, ignore_errors=True)
        _images(data, images)
        values = GOOD | metrics
        for stage in STAGES:
            (artifacts / stage).mkdir(parents=True)
            (artifacts / stage / "summary.json").write_text(json.dumps({"stage": stage, "seed": seed}))
        (artifacts / "package" / "summary.json").unlink()
        _manifest(data).to_csv(artifacts / "augment" / "manifest.csv", index=False)
        epochs = np.arange(5)
        gaps = [1, np.nan, 1, np.nan, 0]  # validated every second epoch
        curves = pd.DataFrame({"epoch": epochs, "loss": np.exp(-epochs - seed), "val_loss": gaps})
        for stage in ("train_vqvae", "train_prior"):
            curves.to_csv(artifacts / stage / "curves.csv", index=False)
            (artifacts / stage / "model.safetensors").write_bytes(bytes([seed]) * 64)
        (artifacts / "calibrate" / "calibration.json").write_text(json.dumps({"eta": 0.001}))
        (artifacts / "package" / "bundle.json").write_text(json.dumps({"seed": seed}))
        (artifacts / "package" / "model.safetensors").write_bytes(bytes([seed]) * 256)
        evaluate = artifacts / "evaluate"
        (evaluate / "metrics.json").write_text(json.dumps(values))
        pd.DataFrame({"defect": ["scratch"], "image_auroc": [values["image_auroc"]]}).to_csv(
            evaluate / "per_defect.csv", index=False
        )
        (evaluate / "gallery").mkdir()
        cv2.imwrite(str(evaluate / "gallery" / "scratch.png"), np.full((8, 8, 3), seed, np.uint8))
        self.record(category)
        return artifacts

    def record(self, category: str) -> None:
        """Write data.dvc and the category's part of dvc.lock for the files as they are; fill the cache."""
        everything = self._store(self.root / "data")
        out = {"md5": everything, "hash": "md5", "path": "data"}
        YAML().dump({"outs": [out]}, self.root / "data.dvc")
        path = self.root / "dvc.lock"
        lock = YAML(typ="safe").load(path.read_text()) if path.exists() else {"schema": "2.0", "stages": {}}
        data_md5 = fixity.listing_md5(fixity.listing(self.root / "data" / category))
        for stage in STAGES:
            folder = f"artifacts/{category}/{stage}"
            entry: dict[str, Any] = {"cmd": f"python -m components {stage} {category}"}
            if stage in ("augment", "evaluate"):
                entry["deps"] = [{"path": f"data/{category}", "hash": "md5", "md5": data_md5}]
            entry["outs"] = [{"path": folder, "hash": "md5", "md5": self._store(self.root / folder)}]
            lock["stages"][f"{stage}@{category}"] = entry
        YAML().dump(lock, path)

    def _store(self, folder: Path) -> str:
        files = fixity.listing(folder)
        cache = self.root / ".dvc" / "cache" / "files" / "md5"
        for path, md5 in files.items():
            target = cache / md5[:2] / md5[2:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / path, target)
        md5 = fixity.listing_md5(files)
        entries = [{"md5": m, "relpath": p} for p, m in sorted(files.items())]
        (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
        (cache / md5[:2] / md5[2:]).write_text(json.dumps(entries, sort_keys=True))
        return md5


def _images(data: Path, seed: int) -> None:
    noise = np.random.default_rng(seed)
    names = [f"train/good/{i:03}.png" for i in range(8)] + [f"test/good/{i:03}.png" for i in range(3)]
    for name in [*names, *(f"test/scratch/{i:03}.png" for i in range(3))]:
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), noise.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    for i in range(3):
        mask = np.zeros((32, 32), np.uint8)
        mask[4:9, 4 + i : 20] = 255
        path = data / "ground_truth" / "scratch" / f"{i:03}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), mask)


def _manifest(data: Path) -> pd.DataFrame:
    rows = []
    parts = ["train"] * 6 + ["val", "calib"]
    for i, path in enumerate(sorted((data / "train" / "good").iterdir())):
        rows.append(_row(data, path, parts[i], "good"))
    for path in sorted((data / "test").rglob("*.png")):
        rows.append(_row(data, path, "test", path.parent.name))
    return pd.DataFrame(rows)


def _row(data: Path, path: Path, part: str, defect: str) -> dict[str, Any]:
    mask = "" if defect == "good" else f"ground_truth/{defect}/{path.stem}_mask.png"
    return {
        "path": path.relative_to(data).as_posix(), "part": part, "label": int(defect != "good"),
        "defect": defect, "mask": mask, "width": 32, "height": 32, "channels": 3, "bit_depth": 8,
        "bytes": path.stat().st_size, "sha256": fixity.file_hash(path, "sha256"), "brightness": 0.5,
        "sharpness": 1.0, "error": "",
    }  # fmt: skip


def write_bundle(folder: Path, side: int = 64, seed: int = 0) -> None:
    """A real bundle that `components.inspector` loads: tiny networks with drawn weights, never trained."""
    import torch
    from safetensors.numpy import save_file

    from components.package import FORMAT
    from components.prior.pixelsnail import PixelSNAIL
    from components.settings import VQVAE as VQVAEConfig
    from components.settings import Prior as PriorConfig
    from components.vqvae.model import VQVAE

    torch.manual_seed(seed)
    base = YAML(typ="safe").load((REPO / "settings" / "standard.yaml").read_text())
    small = {"channels": 8, "residual_blocks": 1, "codebook_size": 16, "code_dim": 4}
    vqvae_config = base["vqvae"] | small
    prior_config = base["prior"] | {"channels": 8, "blocks": 1, "residual_layers": 1, "heads": 2}
    grid = side // vqvae_config["downsample"]
    models = {
        "vqvae": VQVAE(3, VQVAEConfig(**vqvae_config)),
        "prior": PixelSNAIL(16, grid, PriorConfig(**prior_config)),
    }
    tensors = {
        f"{name}.{key}": value.contiguous().numpy()
        for name, model in models.items()
        for key, value in model.state_dict().items()
    }
    from components.scores import PIXELS

    for name in PIXELS.maps:
        tensors[f"standards.mean.{name}"] = np.zeros((grid, grid), np.float32)
        tensors[f"standards.deviation.{name}"] = np.ones((grid, grid), np.float32)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    calibration = {
        "eta": 0.001, "neighbour_rule": True, "spread": 1.0, "views": 1, "score": "reconstruction",
        "pixel_threshold": 0.1, "image_threshold": 0.1, "min_area": 0.001, "map_low": 0.0,
        "bilateral": [20, 75, 75], "white": 255.0, "normal_scores": [0.1], "images": 1,
    }  # fmt: skip
    bundle = {
        "format": FORMAT,
        "category": "brick",
        "vqvae": {"image_channels": 3, "size": side, "grid": grid, "white": 255.0, "config": vqvae_config},
        "prior": {"codebook_size": 16, "grid": grid, "config": prior_config},
        "calibration": calibration,
        "sha256": fixity.file_hash(folder / "model.safetensors", "sha256"),
    }
    (folder / "bundle.json").write_text(json.dumps(bundle))
