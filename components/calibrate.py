"""Stage `calibrate`: eta, the score and the thresholds, from `calib` normals and negatives made of them; where there
are known defects, they help to choose eta and the score (components.known_defects)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file

from components import folds, known_defects, stage
from components.arrays import BATCH, evenly, open_images, to_tensor
from components.detector import Detector
from components.device import find_device
from components.errors import UserError
from components.folds import HeldOut
from components.known_defects import Known
from components.metrics import area_score, auroc
from components.negatives import HARD, TELLING, dot, make, rectangle
from components.prior import train as prior_training
from components.restore import restore
from components.scoremap import FEATURE_SMOOTHING, distance, grow
from components.scores import AS_DRAWN, Kind
from components.settings import Calibrate, Settings
from components.spread import half_width
from components.threshold import threshold
from components.vqvae import train as vqvae_training

FEW = 16  # calibration images that the search for eta looks at
SATURATED = 0.002  # AUROCs on a few dozen negatives that differ by less say nothing
ENOUGH = 0.005  # AUROC on hard negatives that a smaller eta may cost over features


def run(root: Path, settings: Settings) -> None:
    """Write calibration.json, standards.safetensors and the tables eta.csv and scores.csv; with known defects,
    known.csv: which of them the threshold catches.

    Raises UserError when every eta replaces too many codes of normal images.
    """
    config, category = settings.calibrate, settings.category
    images_folder, device = stage.folder(root, category, "augment"), find_device()
    facts = stage.read_json(images_folder / "summary.json")
    white = float(facts["white"])
    stored = open_images(images_folder, "calib")
    normals = stored[evenly(len(stored), config.images)]
    known = known_defects.read(images_folder, config.images)
    detector = Detector(
        vqvae_training.load(stage.folder(root, category, "train_vqvae"), device),
        prior_training.load(stage.folder(root, category, "train_prior"), device),
        eta=0.0, neighbour_rule=config.neighbour_rule, bilateral=config.bilateral,
    )  # fmt: skip
    etas = eta_table(detector, normals, white, settings, device, known)
    # Over features the residual itself shows the defect, whatever eta: a larger one would only cost passes.
    eta = choose_eta(etas, config, ENOUGH if detector.over_features else 0.0)
    detector = replace(detector, eta=eta)
    print(f"calibrate@{category}: eta {eta}", flush=True)

    plain = open_images(images_folder, "plain")
    detector, held_out = folds.fitted(detector, normals, plain, white, config.parts, f"calibrate@{category}")
    maps = held_out.maps()
    detector = replace(detector, standards=folds.standards(detector, maps))
    known_maps: dict[str, np.ndarray] = {}
    if known:
        known_maps = folds.look((detector,), known.images, white, f"calibrate@{category} known defects")
    area = min_area(config, normals.shape[1])
    usual = {name: folds.image_scores(detector, maps, name, area) for name in detector.scores}
    scores = score_table(detector, held_out, usual, settings, known, known_maps)
    score = config.score
    if score == "auto":
        score = choose_score(scores, detector.kind)
    limit = threshold(usual[score], config.false_alarms)
    scored = detector.score(maps, score)

    out = stage.fresh_folder(root, category, "calibrate")
    etas.to_csv(out / "eta.csv", index=False)
    scores.to_csv(out / "scores.csv", index=False)
    told: dict[str, Any] = {}
    if known:
        caught = known.caught(detector.score(known_maps, score), limit, area)
        caught.to_csv(out / "known.csv", index=False)
        told["known"] = known_defects.summary(known, caught)
    if held_out.parts is not None:
        told["parts"] = held_out.parts
    arrays = {
        f"{kind}.{name}": getattr(s, kind) for name, s in detector.standards.items() for kind in ("mean", "deviation")
    }
    if detector.normality is not None:
        arrays |= detector.normality.tensors()
    save_file(arrays, out / "standards.safetensors")
    stage.write_json(out / "calibration.json", {
        "eta": eta, "neighbour_rule": config.neighbour_rule, 
        "score": score, "pixel_threshold": limit, "image_threshold": limit, "false_alarms": config.false_alarms,
        "min_area": config.min_area, "map_low": float(np.median(scored)),
        "reach": 0 if score == AS_DRAWN else reach(detector, held_out, scored, score, settings),
        "bilateral": list(config.bilateral), "white": white, "normal_scores": sorted(usual[score]),
        "normal_least_likelihoods": sorted(least_likelihoods(detector, normals, white, device)),
        "images": len(normals),
    } | told)  # fmt: skip


def reach(detector: Detector, held_out: HeldOut, usual: np.ndarray, score: str, settings: Settings) -> int:
    """How many pixels around a point its `score` spreads (components.spread), from dots of the smallest area that
    counts, on some of the normals, whose score maps are `usual` (N, S, S)."""
    places = evenly(len(usual), FEW)
    painter = partial(dot, area=settings.calibrate.min_area)
    maps, dots = held_out.painted(painter, places, settings.seed + 2, "dots", detector.scores[score])
    return half_width(detector.score(maps, score) - usual[places], dots)


def min_area(config: Calibrate, size: int) -> int:
    """Smallest region that counts, in pixels of a size x size image."""
    return max(1, round(config.min_area * size * size))


@torch.no_grad()
def least_likelihoods(detector: Detector, images: np.ndarray, white: float, device: torch.device) -> list[float]:
    """min over i of p(z_i | z_<i) for each image, in 0..1: what inspections log, for drift to compare with."""
    least: list[float] = []
    for i in range(0, len(images), BATCH):
        codes = detector.vqvae.encode(to_tensor(images[i : i + BATCH], white, device))
        least += restore(detector.prior, codes, eta=0.0).likelihood.flatten(1).amin(1).tolist()
    return least


@torch.no_grad()
def eta_table(
    detector: Detector, normals: np.ndarray, white: float, settings: Settings, device: torch.device,
    known: Known | None = None,
) -> pd.DataFrame:  # fmt: skip
    """For each eta: the share of the codes of normals that it replaces (`replaced`), the pixel AUROC of Eq. 6
    on rectangles, its mean AUROC on known defects (`known`, where there are any), and on the harder negatives
    (`hard`; NaN where the former have decided already)."""
    config, few = settings.calibrate, normals[evenly(len(normals), FEW)]
    painters = {"rectangle": partial(rectangle, area=config.rectangle_area)} | HARD
    negatives = {kind: make(few, painter, white, settings.seed) for kind, painter in painters.items()}

    model = detector.vqvae

    def encoded(images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes, and what their restoration is compared with: the reconstruction, or the features."""
        x = torch.cat([to_tensor(images[i : i + BATCH], white, device) for i in range(0, len(images), BATCH)])
        features = model.features(x)
        codes = model.quantise(features)
        return codes, features if detector.over_features else model.decode(codes)

    def difference(seen: tuple[torch.Tensor, torch.Tensor], eta: float) -> tuple[np.ndarray, float]:
        codes, reference = seen
        restored = restore(detector.prior, codes, eta, config.neighbour_rule, coarse=model.coarse(codes)).codes
        replaced = float((restored != codes).float().mean())
        expected = model.expected(restored)
        if detector.over_features:
            residual = (reference - expected).square().mean(1).sqrt()
            return grow(residual, few.shape[1], FEATURE_SMOOTHING), replaced
        return distance(expected, reference), replaced

    usual = encoded(few)
    unmarked = np.zeros(few.shape[:3], bool)
    painted = {kind: encoded(images) for kind, (images, _) in negatives.items()}
    real = known.at_most(FEW) if known else None
    seen_real = encoded(real.images) if real else None
    area = min_area(config, few.shape[1])
    rows: list[dict[str, float]] = []
    for eta in sorted(config.etas):
        normal, replaced = difference(usual, eta)
        row = {"eta": eta, "replaced": replaced, "rectangles": float("nan"), "hard": float("nan")}
        rows.append(row)
        if replaced <= config.max_replaced:
            maps, _ = difference(painted["rectangle"], eta)
            masks = np.concatenate([negatives["rectangle"][1], unmarked])
            row["rectangles"] = auroc(masks, np.concatenate([maps, normal]))
            if real and seen_real:
                usual_scores = [area_score(m, area) for m in normal]
                found = real.measure(difference(seen_real, eta)[0], usual_scores, area)
                row["known"] = float(np.mean([*found.values()]))
        print(f"calibrate@{settings.category} eta {eta}: rectangles {row['rectangles']:.4f}, "
              f"normal codes replaced {replaced:.3%}", flush=True)  # fmt: skip
        if replaced > config.max_replaced:
            break  # a larger eta only replaces more
    table = pd.DataFrame(rows)
    easy = known_defects.easy(table)
    for index in table.index[easy >= easy.max() - SATURATED]:
        eta = float(table.eta[index])
        hard = [auroc(negatives[kind][1], difference(painted[kind], eta)[0]) for kind in HARD]
        table.loc[index, "hard"] = float(np.mean(hard))
        print(f"calibrate@{settings.category} eta {eta}: harder negatives {np.mean(hard):.4f}", flush=True)
    return table


def choose_eta(table: pd.DataFrame, config: Calibrate, tolerance: float = 0.0) -> float:
    """The eta with the best AUROC on rectangles (and known defects); among those as good, the best on harder
    negatives; among those within `tolerance` of that, the smallest: it restores the least and takes the fewest passes.

    An eta that replaces more than `max_replaced` of the codes of normals is refused: each replaced code
    changes the context of the next, and replacements cascade.
    """
    allowed = table[table.replaced <= config.max_replaced]
    if allowed.empty:
        raise UserError(
            f"every eta replaces more than {config.max_replaced:.1%} of the codes of normal images: the prior "
            "has not learnt them; train it longer, add normal images, or add smaller values to calibrate.etas"
        )
    easy = known_defects.easy(allowed)
    best = allowed[easy >= easy.max() - SATURATED]
    hard = best.hard.fillna(0.0)  # not measured where the rectangles have decided
    return float(best[hard >= hard.max() - tolerance].eta.min())


def choose_score(table: pd.DataFrame, kind: Kind) -> str:
    """The candidate with the best mean AUROC in the sorted `table`; of those that are as good, the best with the most
    maps: where the negatives cannot tell, a sum of measures misses less than one."""
    means = table.set_index("score")["mean"]
    candidates = [str(name) for name in table.score if name in kind.candidates]
    alike = [name for name in candidates if means[name] >= means[candidates[0]] - SATURATED]
    return max(alike, key=lambda name: len(kind.scores[name]))  # the first of them


def score_table(
    detector: Detector,
    held_out: HeldOut,
    usual: dict[str, list[float]],
    settings: Settings,
    known: Known | None,
    known_maps: dict[str, np.ndarray],
) -> pd.DataFrame:
    """Every score's image and pixel AUROC on each kind of painted negative and on known defects, whose base maps are
    `known_maps`; best mean over the kinds first, and the `threshold` that the image scores of the normals, `usual`,
    give it."""
    config = settings.calibrate
    area = min_area(config, held_out.images.shape[1])
    rows: dict[str, dict[str, Any]] = {name: {"score": name} for name in detector.scores}
    places = evenly(len(held_out.images), config.negatives)
    for kind, painter in TELLING.items():
        maps, masks = held_out.painted(painter, places, settings.seed + 1, kind)
        for name, row in rows.items():
            scored = detector.score(maps, name)
            own = [area_score(m, area) for m in scored]
            row[f"{kind}_image"] = auroc([0] * len(usual[name]) + [1] * len(own), usual[name] + own)
            row[f"{kind}_pixel"] = auroc(masks, scored)
    if known:
        for name, row in rows.items():
            row |= known.measure(detector.score(known_maps, name), usual[name], area)
    table = pd.DataFrame(rows.values())
    table["mean"] = known_defects.mean_of_kinds(table, len(TELLING))
    table["threshold"] = [threshold(usual[name], config.false_alarms) for name in table.score]
    return table.sort_values("mean", ascending=False, ignore_index=True)
