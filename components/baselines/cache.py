"""A fitted baseline from its cache, or fitted now: training it twice on the same inputs is a waste.

checkpoints/<category>/baselines/<name>.safetensors holds the weights, and in its header the key of what they
were made from (seed, settings, training images, the method's own source) and the seconds that took.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from components import baselines, stage
from components.arrays import open_images
from components.baselines.job import Baseline, Frame, Job
from components.baselines.settings import Baselines
from components.device import place
from components.settings import Settings

HERE = "components.baselines."


@dataclass(frozen=True)
class Fitted:
    """A baseline ready to score, the seconds that its training took, and whether it came from the cache."""

    model: Baseline
    seconds: float
    loaded: bool


def fit_or_load(
    root: Path, name: str, settings: Settings, configs: Baselines, frame: Frame, images_key: str, device: torch.device
) -> Fitted:
    """The baseline `name` of a category; `images_key` is the sha256 of its training images (hashed once for all).

    A killed training resumes from its checkpoint. Raises MissingBackboneError where a network is not installed.
    """
    folder = root / "checkpoints" / settings.category / "baselines"
    path = folder / f"{name}.safetensors"
    torch.manual_seed(settings.seed)
    model = place(baselines.build(name, frame, configs), device)
    key = key_of(model, (images_key, settings.seed, frame, baselines.config_of(name, configs)))
    seconds = _seconds(path, key)
    if seconds is not None:
        model.load_state_dict(load_file(path))
        return Fitted(model.eval(), seconds, loaded=True)
    source = stage.folder(root, settings.category, "augment")
    white = float(stage.read_json(source / "summary.json")["white"])
    job = Job(f"{name}@{settings.category}", open_images(source, "train"), open_images(source, "val"), white,
              settings.seed, device, folder, key)  # fmt: skip
    seconds = model.fit(job)
    folder.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, beside, {"key": key, "seconds": f"{seconds:.2f}"})
    os.replace(beside, path)
    for checkpoint in folder.glob(f"{name}*.pt"):
        checkpoint.unlink()
    return Fitted(model.eval(), seconds, loaded=False)


def key_of(model: Baseline, inputs: object) -> str:
    """One hash of the inputs and of the files that define the model."""
    return stage.inputs_key(inputs, *sorted(sources(type(model).__module__)))


def sources(module: str) -> set[Path]:
    """The file of a module of this folder and of those here that it takes something from, settings apart: their
    values are inputs."""
    found: dict[str, Path] = {}
    waiting = {module}
    while waiting:
        name = waiting.pop()
        found[name] = Path(str(sys.modules[name].__file__))
        used = {str(getattr(value, "__module__", "")) for value in vars(sys.modules[name]).values()}
        waiting |= {each for each in used if each.startswith(HERE) and each != f"{HERE}settings"} - set(found)
    return set(found.values())


def _seconds(path: Path, key: str) -> float | None:
    """Seconds that the cached training took; None where there is none of this key."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
    except SafetensorError as error:
        print(f"{path.name} cannot be read ({error}); it is trained again", flush=True)
        return None
    return float(facts["seconds"]) if facts.get("key") == key else None
