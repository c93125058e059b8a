"""The method with other settings, trained beside the package so that `kintsugi compare` has a row of it.

The same stages run in a workspace of their own, checkpoints/<category>/variants/<name>/, on the augmented images that
the package learnt from. keys.json there says what each stage's output was made from (its settings, its code, the
stages before), so that a second comparison trains nothing and a changed line runs again what it can have changed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from components import settings, stage
from components.inspector import Inspector
from components.settings import Settings

HERE = Path(__file__).parent
# Each stage: its module, the sections of the settings and the code that decide its result.
STEPS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "train_vqvae": (
        "vqvae.train", ("vqvae",), ("vqvae", "features", "arrays.py", "device.py", "parallel.py", "training.py"),
    ),
    "extract_codes": ("codes", (), ("codes.py", "arrays.py", "device.py")),
    "train_prior": ("prior.train", ("prior",), ("prior", "arrays.py", "device.py", "parallel.py", "training.py")),
    "calibrate": (
        "calibrate", ("calibrate",),
        ("calibrate.py", "known_defects.py", "detector.py", "folds.py", "threshold.py", "spread.py", "negatives.py",
         "standard.py", "metrics.py", "restore.py", "scoremap.py", "scores.py", "normality", "wavelets.py", "prior",
         "arrays.py", "device.py"),
    ),
    "package": ("package", (), ("package.py",)),
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """`title` says what it is; `vqvae` what it changes of the category's settings."""

    title: str
    vqvae: Mapping[str, str]


VARIANTS = {
    "patch_aware": Variant("codes allocated by context", {"latent": "pixels", "allocation": "context"}),
}


def folder(root: Path, category: str, name: str) -> Path:
    """The variant's own workspace."""
    return root / "checkpoints" / category / "variants" / name


def same(inspector: Inspector, name: str) -> bool:
    """Whether a package has the variant's settings itself."""
    config = inspector.bundle["vqvae"]["config"]
    return all(config.get(key) == value for key, value in VARIANTS[name].vqvae.items())


def fit_or_load(root: Path, category: str, name: str, device: torch.device) -> Inspector:
    """The variant of a category, packaged. A killed training resumes from its checkpoint."""
    resolved = settings.load(root, category, dict(VARIANTS[name].vqvae))
    own = folder(root, category, name)
    source, images = stage.folder(root, category, "augment"), stage.folder(own, category, "augment")
    images.parent.mkdir(parents=True, exist_ok=True)
    if not images.is_symlink():
        images.symlink_to(os.path.relpath(source, images.parent), target_is_directory=True)
    arrays = sorted([*source.glob("*.npy"), source / "summary.json"])
    done = stage.read_json(own / "keys.json") if (own / "keys.json").is_file() else {}
    key = stage.inputs_key(resolved.seed, *arrays)
    for step, (module, _, _) in STEPS.items():
        key = key_of(step, key, resolved)
        if done.get(step) != key or not stage.folder(own, category, step).is_dir():
            print(f"compare@{category} {name}: {step}", flush=True)
            torch.manual_seed(resolved.seed)
            importlib.import_module(f"components.{module}").run(own, resolved)
            done[step] = key
            stage.write_json(own / "keys.json", done)
    return Inspector.load(stage.folder(own, category, "package"), str(device))


def key_of(step: str, before: str, resolved: Settings) -> str:
    """What decides a stage's result: what the stage before it had, its sections of the settings, its code."""
    _, sections, code = STEPS[step]
    files = [path for name in code for path in sorted((HERE / name).rglob("*.py")) or [HERE / name]]
    return stage.inputs_key((before, [asdict(getattr(resolved, section)) for section in sections]), *files)
