"""Stage `evaluate`: every metric of the packaged model on images that nothing was learnt or chosen from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components import stage
from components.device import find_device
from components.evaluate import gallery, report
from components.evaluate.protocol import absent, cases, describe, measure
from components.evaluate.published import public_set
from components.inspector import Inspector
from components.settings import Evaluate, Settings


def run(root: Path, settings: Settings) -> None:
    """Write metrics.json, scores.csv, per_defect.csv, curves.npz, gallery/*.png and report.html."""
    data = root / "data" / settings.category
    manifest = pd.read_csv(stage.folder(root, settings.category, "augment") / "manifest.csv", keep_default_na=False)
    inspector = Inspector.load(stage.folder(root, settings.category, "package"), str(find_device()))
    out = stage.fresh_folder(root, settings.category, "evaluate")
    result = evaluate(inspector, data, manifest, settings.evaluate, settings.seed)
    counts = (result.metrics["normal_images"], result.metrics["defective_images"])
    known = public_set(settings.category, result.metrics["evaluated_on"], *counts)
    public = {"public_set": asdict(known) if known else None}
    stage.write_json(out / "metrics.json", result.metrics | public)
    result.scores.to_csv(out / "scores.csv", index=False)
    result.per_defect.to_csv(out / "per_defect.csv", index=False)
    np.savez_compressed(out / "curves.npz", allow_pickle=False, **result.curves)
    _, todo = cases(data, manifest, inspector, settings.seed)
    chosen = gallery.choose(result.scores, inspector.image_threshold, settings.evaluate.gallery)
    gallery.write(out / "gallery", inspector, todo, chosen)
    page = report.render(report.collect(out.parent, settings.category, settings.evaluate.aupro_limit))
    (out / "report.html").write_text(page, encoding="utf-8")


@dataclass(frozen=True)
class Result:
    """`metrics`: DESIGN's names to numbers and texts; `scores`: a row per image; `per_defect`: a row per
    type; `curves`: ROC and PRO over the false-positive rate."""

    metrics: dict[str, Any]
    scores: pd.DataFrame
    per_defect: pd.DataFrame
    curves: dict[str, np.ndarray]


def evaluate_bundle(package: Path, data: Path, manifest: pd.DataFrame, config: Evaluate, seed: int) -> dict[str, Any]:
    """Score any packaged model on a category's test images: the metrics of metrics.json.

    The gates call it for a champion that was measured on another test set. `data` is data/<category>,
    `manifest` the rows of the augment stage.
    """
    return evaluate(Inspector.load(package), data, manifest, config, seed).metrics


def evaluate(inspector: Inspector, data: Path, manifest: pd.DataFrame, config: Evaluate, seed: int) -> Result:
    """Inspect every case and measure."""
    synthetic, todo = cases(data, manifest, inspector, seed)
    size = inspector.image_size
    maps, marked, masks, rows, busy = [], [], [], [], 0.0
    for number, case in enumerate(todo, 1):
        image, mask, known = case.read_for(size)
        seen = inspector.inspect([image])[0]
        busy += seen.seconds
        maps.append(seen.score_map.astype(np.float32))
        marked.append(seen.mask)
        masks.append(mask)
        rows.append({"path": case.path, "label": case.label, "defect": case.defect, "score": seen.score,
                     "verdict": int(seen.anomalous), "mask_known": int(known),
                     "least_likelihood": _least(seen.likelihood)})  # fmt: skip
        if number % 20 == 0 or number == len(todo):
            print(f"evaluate@{inspector.category} {number}/{len(todo)} {number / busy:.1f} images/s", flush=True)
    scores = pd.DataFrame(rows)
    measured, per_defect, curves = measure(scores, np.stack(maps), np.stack(marked), np.stack(masks), config)
    calibration = inspector.calibration
    metrics: dict[str, Any] = dict(measured)
    metrics |= {
        "eta": calibration["eta"],
        "image_threshold": inspector.image_threshold,
        "pixel_threshold": inspector.pixel_threshold,
        "images_per_second": len(todo) / busy,
        "absent": absent(scores, measured),
        "evaluated_on": "synthetic" if synthetic else "test",
        "protocol": describe(inspector, synthetic, scores, config),
    }
    return Result(metrics, scores, per_defect, curves)


def _least(likelihood: np.ndarray | None) -> float:
    return float("nan") if likelihood is None else float(likelihood.min())
