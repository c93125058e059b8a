"""Which images are scored, what is measured on them, and the words that say so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from components import metrics
from components.arrays import unit
from components.dataset.images import read_image, read_mask, resize_mask
from components.dataset.split import judged
from components.inspector import Inspector
from components.negatives import HARD, make, rectangle
from components.settings import Evaluate

POINTS = 500  # of a stored curve
READ_LIMIT = 1e6  # megapixels; the manifest's check has refused what is too large
PAINTERS = {"rectangle": rectangle} | HARD


@dataclass(frozen=True)
class Case:
    """One image to score: `read()` gives (image, mask at its size or None when the regions are not known)."""

    path: str
    label: int
    defect: str
    read: Callable[[], tuple[np.ndarray, np.ndarray | None]]

    def read_for(self, size: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """The image, its mask bool (size, size), and whether its regions are known: a mask without a pixel, drawn so or
        too small for this size, is as good as none."""
        image, mask = self.read()
        small = resize_mask(np.zeros(image.shape[:2], bool) if mask is None else mask, size)
        return image, small, bool(small.any()) or not self.label


def cases(data: Path, manifest: pd.DataFrame, inspector: Inspector, seed: int) -> tuple[bool, list[Case]]:
    """The images that are `judged`, in the manifest's order; where no real defect is among them, also defects painted
    on each. Returns whether the second holds."""
    rows = judged(manifest)
    if (rows.label == 1).any():
        return False, [_real(data, row) for _, row in rows.iterrows()]
    paths = [str(path) for path in rows.path]
    found = [Case(path, 0, "good", partial(_read, data / path, None)) for path in paths]
    for kind in PAINTERS:
        found += [
            Case(f"{path}#{kind}", 1, kind, partial(_painted, data, paths, index, kind, inspector, seed))
            for index, path in enumerate(paths)
        ]
    return True, found


def _real(data: Path, row: pd.Series) -> Case:
    mask = data / row["mask"] if row["mask"] else None
    return Case(row["path"], int(row["label"]), row["defect"], partial(_read, data / row["path"], mask))


def _read(path: Path, mask: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    image = read_image(path, READ_LIMIT)
    return image, read_mask(mask, *image.shape[:2]) if mask else None


def _painted(
    data: Path, paths: list[str], index: int, kind: str, inspector: Inspector, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    white = float(inspector.calibration["white"])
    pair = [data / paths[index], data / paths[(index + 1) % len(paths)]]
    own, other = (unit(read_image(p, READ_LIMIT), inspector.channels, white, inspector.image_size) for p in pair)
    full = white if white > 255 else 65535.0  # 16 bits, so that painting costs no information: `unit`'s own white
    stored = np.rint(np.stack([own, other]) * np.float32(full)).astype(np.uint16)
    painted, masks = make(stored, PAINTERS[kind], full, seed + 2 + index)
    return painted[0], masks[0]


def measure(
    scores: pd.DataFrame, maps: np.ndarray, marked: np.ndarray, masks: np.ndarray, config: Evaluate
) -> tuple[dict[str, float], pd.DataFrame, dict[str, np.ndarray]]:
    """All metrics, the table per defect type, and the curves, from maps, what is marked and masks (N, S, S).

    Defective images whose regions nobody has drawn count for the image metrics and not for the pixels'.
    """
    labels, verdicts = scores.label.to_numpy(), scores.verdict.to_numpy()
    known = scores.mask_known.to_numpy() == 1
    usual = labels == 0
    values = pixel_metrics(maps[known], marked[known], masks[known], config) | {
        "image_auroc": metrics.auroc(labels, scores.score),
        "image_balanced_accuracy": metrics.balanced_accuracy(labels, verdicts),
        "image_f1": metrics.f1(labels, verdicts),
        "normal_false_positive_rate": float(verdicts[usual].mean()) if usual.any() else float("nan"),
        "normal_images": int(usual.sum()),
        "defective_images": int((~usual).sum()),
    }
    rows = []
    for defect, group in scores[~usual].groupby("defect"):
        chosen = usual.copy()
        chosen[group.index] = True
        part = known & chosen
        rows.append({"defect": defect, "images": len(group), "found": int(group.verdict.sum()),
                     "image_auroc": metrics.auroc(labels[chosen], scores.score[chosen])}
                    | pixel_metrics(maps[part], marked[part], masks[part], config))  # fmt: skip
    return values, pd.DataFrame(rows), _curves(scores, maps[known], masks[known])


def absent(scores: pd.DataFrame, measured: dict[str, float]) -> dict[str, str]:
    """Which metrics these images cannot give, and why: a gate tells that from one that failed."""
    defective = scores.label == 1
    if not defective.any():
        reason = "no defective image"
    elif not (scores.mask_known[defective] == 1).any():
        reason = "no defective image has a mask"
    else:
        reason = "not defined on these images"
    return {name: reason for name, value in measured.items() if math.isnan(value)}


def pixel_metrics(maps: np.ndarray, marked: np.ndarray, masks: np.ndarray, config: Evaluate) -> dict[str, float]:
    """Pixel AUROC and AUPRO of the maps, PRO and F1 of what is `marked`; NaN where no mask has a pixel."""
    return {
        "pixel_auroc": metrics.auroc(masks, maps),
        "aupro_30": metrics.aupro(maps, masks, config.aupro_limit),
        "pro": metrics.pro(marked, masks),
        "pixel_f1": metrics.f1(masks, marked) if masks.any() else float("nan"),
    }


def _curves(scores: pd.DataFrame, maps: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    from sklearn.metrics import roc_curve

    curves = {
        "normal_scores": scores.score[scores.label == 0].to_numpy(),
        "defect_scores": scores.score[scores.label == 1].to_numpy(),
    }
    if scores.label.nunique() == 2:
        curves["image_fpr"], curves["image_tpr"], _ = roc_curve(scores.label, scores.score)
    if masks.any():
        rate, reached = metrics.pro_curve(maps, masks)
        picks = np.unique(np.linspace(0, len(rate) - 1, POINTS).astype(int))
        curves["pro_fpr"], curves["pro"] = rate[picks], reached[picks]
    return curves


def describe(inspector: Inspector, synthetic: bool, scores: pd.DataFrame, config: Evaluate) -> str:
    """The definitions behind the numbers, in words."""
    normal, defective = int((scores.label == 0).sum()), int((scores.label == 1).sum())
    area = inspector.calibration["min_area"]
    on = (
        f"{normal} held-out normal images and {defective} synthetic negatives painted on them (no real defect is known)"
        if synthetic
        else f"{normal} normal and {defective} defective test images, of which "
        f"{int((scores.mask_known == 0).sum())} without a mask"
    )
    return (
        f"Scored on {on}, at {inspector.image_size} x {inspector.image_size} pixels, masks by nearest neighbour. "
        f"Score map: {inspector.calibration['score']}. Image score: the highest level at which an 8-connected "
        f"region of {area:.3%} of the image survives; verdict: score > threshold. "
        "The threshold, eta and the score were chosen on "
        f"{inspector.calibration['images']} calibration normals and negatives painted on them{_with_known(inspector)}, "
        f"never on these images. {_alarms(inspector)}{_parts(inspector)}"
        f"What is marked: the score map's regions above the threshold of that size{_without_skirts(inspector)}. "
        "pro: mean share of the 8-connected ground-truth regions that is marked; pixel_f1: F1 of the marked pixels. "
        f"aupro_30: that share integrated over the pixel false-positive rate to {config.aupro_limit}, exact, float64. "
        "image_balanced_accuracy: mean of the two classes' accuracies; image_f1: F1 of the verdicts."
    )


def _without_skirts(inspector: Inspector) -> str:
    reach = inspector.reach
    return f", less what is below half of the highest score of its region within {reach} pixels" if reach else ""


def _alarms(inspector: Inspector) -> str:
    if "false_alarms" not in inspector.calibration:
        return ""  # a bundle from before there was a choice
    share = inspector.calibration["false_alarms"]
    return f"Threshold: what {share:.1%} of normal images exceed, by a Gumbel distribution fitted to those. "


def _parts(inspector: Inspector) -> str:
    count = inspector.calibration.get("parts")
    return f"Photographs of one part were held out together; the normal images show {count} parts. " if count else ""


def _with_known(inspector: Inspector) -> str:
    known = inspector.calibration.get("known")
    return f", eta and the score also on {known['images']} known defects" if known else ""
