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
from typing import Any

import torch

from components import settings, stage
from components.inspector import Inspector
from components.settings import Settings

HERE = Path(__file__).parent
STEPS = stage.STAGES[1:-1]  # from the augmented images to the package


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
    graph = settings.read_yaml(root / "dvc.yaml")["stages"]
    for step in STEPS:
        key = key_of(graph[step], key, resolved)
        if done.get(step) != key or not stage.folder(own, category, step).is_dir():
            print(f"compare@{category} {name}: {step}", flush=True)
            torch.manual_seed(resolved.seed)
            importlib.import_module(stage.MODULES[step]).run(own, resolved)
            done[step] = key
            stage.write_json(own / "keys.json", done)
    return Inspector.load(stage.folder(own, category, "package"), str(device))


def key_of(node: Mapping[str, Any], before: str, resolved: Settings) -> str:
    """What decides the result of a stage that dvc.yaml has as `node`: what the stage before it had, its sections of the
    settings, its code."""
    code = [HERE.parent / dep for dep in node["deps"] if Path(dep).parts[0] == HERE.name]
    files = [path for each in code for path in sorted(each.rglob("*.py")) or [each]]
    keys = [key for params in node.get("params", ()) for named in params.values() for key in named]
    sections = [asdict(getattr(resolved, key)) for key in keys if key in settings.SECTIONS]
    return stage.inputs_key((before, sections), *files)
