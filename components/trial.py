"""What every method of a comparison faces, and the one way in which it is judged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from components import metrics, stage
from components.arrays import BATCH, evenly, open_images, to_tensor, unit
from components.evaluate.protocol import cases, pixel_metrics
from components.inspector import Inspector
from components.outline import marked
from components.settings import Evaluate, Settings
from components.threshold import threshold

METRICS = (
    "image_auroc", "pixel_auroc", "aupro_30", "pro", "image_balanced_accuracy", "image_f1", "pixel_f1",
)  # fmt: skip
TIMED = 16  # test images, spread over all, one at a time
WARM_UP = 2

Score = Callable[[Tensor], np.ndarray]


@dataclass(frozen=True)
class Trial:
    """What every method faces: `calib` (M, S, S, C) and `images` (N, S, S, C), float32 in [0, 1]; `masks` bool
    (N, S, S); `cases`, a row per image with label and mask_known; the smallest region that counts, in pixels; the
    share of normal images that a threshold is to let through."""

    calib: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    cases: pd.DataFrame
    area: int
    false_alarms: float
    synthetic: bool


def load_trial(root: Path, settings: Settings, inspector: Inspector) -> Trial:
    """The calibration normals that the package's thresholds came from, and the test cases, at the model's size."""
    folder = stage.folder(root, settings.category, "augment")
    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    white, size = float(inspector.calibration["white"]), inspector.image_size
    stored = open_images(folder, "calib")
    calib = stored[evenly(len(stored), settings.calibrate.images)].astype(np.float32)
    synthetic, todo = cases(root / "data" / settings.category, manifest, inspector, settings.seed)
    images, masks, rows = [], [], []
    for case in todo:
        image, mask, known = case.read_for(size)
        images.append(unit(image, inspector.channels, white, size))
        masks.append(mask)
        rows.append({"path": case.path, "label": case.label, "mask_known": int(known)})
    return Trial(np.clip(calib / np.float32(white), 0, 1), np.stack(images), np.stack(masks), pd.DataFrame(rows),
                 inspector.min_area, settings.calibrate.false_alarms, synthetic)  # fmt: skip


def judge(at: float, maps: np.ndarray, trial: Trial, config: Evaluate, reach: int = 0) -> dict[str, float]:
    """METRICS at a threshold and the threshold itself, from the maps (N, S, S) of the test, whose strong scores raise
    those around them as far as `reach` pixels."""
    scores = np.array([metrics.area_score(m, trial.area) for m in maps])
    labels, known = trial.cases.label.to_numpy(), trial.cases.mask_known.to_numpy() == 1
    drawn = np.stack([marked(m, at, trial.area, reach) for m in maps[known]])
    return pixel_metrics(maps[known], drawn, trial.masks[known], config) | {
        "image_auroc": metrics.auroc(labels, scores),
        "image_balanced_accuracy": metrics.balanced_accuracy(labels, scores > at),
        "image_f1": metrics.f1(labels, scores > at),
        "threshold": at,
    }


def limit(calib: np.ndarray, trial: Trial) -> float:
    """The threshold that the maps (M, S, S) of normal images give."""
    return threshold([metrics.area_score(m, trial.area) for m in calib], trial.false_alarms)


def maps_of(score: Score, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Score maps (N, S, S) of images (N, S, S, C), batch by batch."""
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    return np.concatenate([score(to_tensor(batch, 1.0, device)).astype(np.float32) for batch in batches])


def milliseconds(score: Score, images: np.ndarray, device: torch.device) -> float:
    """Mean time from an image at the model's size to its score map, one image at a time, after a warm-up."""
    picks = np.unique(np.linspace(0, len(images) - 1, TIMED).astype(int))
    tensors = [to_tensor(images[i : i + 1], 1.0, device) for i in picks]
    for x in tensors[:WARM_UP]:
        score(x)
    started = time.perf_counter()
    for x in tensors:
        score(x)
    return (time.perf_counter() - started) * 1e3 / len(tensors)
