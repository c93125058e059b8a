"""A workspace whose real stages take a second or two each: 32 x 32 noise, networks of eight channels."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from flows import fixity
from tests.artifacts_fixture import REPO, make_workspace, set_params

SIDE = 32
SETTINGS = {
    "dataset": {"size": SIDE, "val_fraction": 0.2, "calib_fraction": 0.3, "min_images": 5},
    "augment": {"images": 16},
    "vqvae": {
        "channels": 8, "residual_blocks": 1, "codebook_size": 16, "code_dim": 4, "downsample": 4,
        "steps": 10, "batch": 8,
    },
    "prior": {"channels": 8, "blocks": 1, "residual_layers": 1, "steps": 10, "batch": 8},
    "calibrate": {"etas": [0.0005, 0.005], "negatives": 2, "images": 4, "min_area": 0.004},
}  # fmt: skip
SECTIONS = ("dataset", "augment", "vqvae", "prior", "calibrate", "evaluate")
# What a clock, not the inputs, decided.
TIMED = {"seconds", "images_per_second", "seconds_per_image"}


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def broken(seed: int) -> np.ndarray:
    """Noise with a white and a black patch: its mean stays."""
    image = noise(seed)
    image[8:16, 4:12], image[8:16, 20:28] = 255, 0
    return image


def edit(path: Path, change: Callable[[Any], None]) -> None:
    yaml = YAML()
    content = yaml.load(path.read_text())
    change(content)
    with path.open("w") as file:
        yaml.dump(content, file)


def shrink(root: Path, categories: Sequence[str] = ("brick",), **more: dict[str, Any]) -> None:
    """Write the tiny settings into a workspace; `more` changes sections of them."""

    def change(settings: Any) -> None:
        for section in SETTINGS | more:
            settings[section].update(SETTINGS.get(section, {}) | more.get(section, {}))

    edit(root / "settings/standard.yaml", change)
    edit(
        root / "params.yaml",
        lambda params: [params["overrides"][c].update({name: {} for name in SECTIONS}) for c in categories],
    )


def make(root: Path, categories: Sequence[str] = ("brick",), **more: dict[str, Any]) -> Path:
    """A workspace with real stages, these categories' images and one commit; nothing has run."""
    make_workspace(root)
    shutil.copytree(REPO / "components", root / "components", ignore=shutil.ignore_patterns("__pycache__"))
    set_params(root, "manual", tuple(categories))
    shrink(root, categories, **more)
    (root / ".dvc" / "tmp").mkdir()
    for number, category in enumerate(categories):
        _images(root / "data" / category, 10_000 * number)
    commit(root, "a tiny workspace")
    return root


def commit(root: Path, message: str) -> str:
    """Commit all that git does not ignore; the sha."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "add", "-A"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", message], cwd=root, check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _images(data: Path, first: int) -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:16, 4:12], mask[8:16, 20:28] = 255, 255
    pictures = {f"train/good/{i:03}.png": noise(first + i) for i in range(40)}
    pictures |= {f"test/good/{i:03}.png": noise(first + 100 + i) for i in range(4)}
    pictures |= {f"test/patch/{i:03}.png": broken(first + 200 + i) for i in range(4)}
    pictures |= {f"ground_truth/patch/{i:03}_mask.png": mask for i in range(4)}
    for name, picture in pictures.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(data / name), picture)


def results(folder: Path) -> dict[str, str]:
    """Path -> hash of every file of an output folder, without what a clock decided."""
    return {path: _hash(folder / path) for path in fixity.listing(folder) if not path.endswith(".html")}


def _hash(path: Path) -> str:
    if path.suffix == ".csv":
        table = pd.read_csv(path, keep_default_na=False)
        return fixity.text_sha256(table.drop(columns=[c for c in table if c in TIMED]).to_csv())
    if path.suffix == ".json":
        return fixity.text_sha256(json.dumps(_untimed(json.loads(path.read_text())), sort_keys=True))
    return fixity.file_hash(path, "sha256")


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(each) for key, each in value.items() if key not in TIMED}
    return value
