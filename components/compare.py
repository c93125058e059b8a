"""Every method on one protocol: the packaged model and its ablations, its variants, and the papers' baselines.

A method turns images (B, C, S, S) in [0, 1] into score maps float32 (B, S, S). Whatever it is, its threshold is
that of the image scores of the `calib` normals, as in calibrate.py, and its metrics are those of evaluate/ on the
same test cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from components import stage, variants
from components.baselines import CLASSES
from components.baselines.cache import fit_or_load
from components.baselines.job import Frame
from components.baselines.settings import Baselines
from components.detector import Detector
from components.device import find_device
from components.errors import UserError
from components.features.backbone import MissingBackboneError
from components.folds import image_scores, look, standards
from components.inspector import Inspector
from components.scores import AS_DRAWN, SCORES
from components.settings import Evaluate, Settings, nearest
from components.threshold import threshold
from components.trial import METRICS, Score, Trial, judge, limit, load_trial, maps_of, milliseconds

COSTS = ("fit_seconds", "inference_ms", "megabytes")
COLUMNS = ("method", "what", "chosen", *METRICS, "threshold", *COSTS, "note")
NO_RULE = {f"{name}_without_rule": name for name in ("restored", "restored_likelihood")}
GROUPS = {"package": (*SCORES, *NO_RULE), "variants": tuple(variants.VARIANTS), "baselines": tuple(CLASSES)}
NAMES = tuple(name for group in GROUPS.values() for name in group)
WHAT = {
    "restored": "restored - reconstructed (Eq. 6: the paper's own)",
    "reconstruction": "input - reconstruction",
    "input_restored": "input - restored",
    "likelihood": "the prior's likelihood of the codes",
    "restored_likelihood": "that likelihood, given the restored codes",
    "budget": "how far the share of fine codes is from that of normal parts",
    "residual": "input - restored, in features; over pixels the input's waves, and these - the reconstruction's",
    "deviation": "the same over its spread at each place",
    "mahalanobis": "the same by its covariance at each place",
    "layers": "the same, fine features by themselves and coarse ones given the fine",
    "wide": "how far differences, each of bounded say, agree over a sixteenth of the image",
}


@dataclass(frozen=True)
class Comparison:
    """`table` has COLUMNS, a row per method (a method that was left out has its reason in `note`); `protocol`
    says in words what the numbers are."""

    category: str
    table: pd.DataFrame
    protocol: str


def names_of(wanted: Sequence[str]) -> list[str]:
    """The methods in `wanted`, groups resolved, in the table's order; all when there are none. UserError offers
    the nearest name."""
    for word in wanted:
        if word not in NAMES and word not in GROUPS:
            raise UserError(f"there is no method '{word}'{nearest(word, [*NAMES, *GROUPS])}")
    chosen = {name for word in wanted for name in GROUPS.get(word, (word,))}
    return [name for name in NAMES if name in chosen or not wanted]


def compare(root: Path, settings: Settings, configs: Baselines, names: Sequence[str]) -> Comparison:
    """Score the methods `names` on a category whose stages have run; variants and baselines are trained where no
    cache has them.

    Raises UserError where the category has no package yet.
    """
    device = find_device()
    inspector = Inspector.load(stage.folder(root, settings.category, "package"), str(device))
    trial = load_trial(root, settings, inspector)
    rows = list(package_rows(root, settings, inspector, trial, names))
    rows += variant_rows(root, settings, inspector, trial, [name for name in names if name in variants.VARIANTS])
    rows += baseline_rows(root, settings, configs, inspector, trial, [name for name in names if name in CLASSES])
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return Comparison(settings.category, table, protocol(inspector, trial, settings.evaluate))


def thresholds(root: Path, category: str) -> dict[str, float]:
    """The threshold of each of the package's scores, from the images that its calibration held out."""
    path = stage.folder(root, category, "calibrate") / "scores.csv"
    table = pd.read_csv(path)
    if "threshold" not in table:
        raise UserError(f"{path} is of an older calibration; run `kintsugi run {category}` again")
    return dict(zip(table.score, table.threshold, strict=True))


def package_rows(
    root: Path, settings: Settings, inspector: Inspector, trial: Trial, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The scores of the packaged model, with its neighbour rule and without; nothing is trained.

    The base maps of all scores come from one look at each image.
    """
    detector, device, category = inspector.detector, inspector.device, settings.category
    seconds, size = training_seconds(root, category), _megabytes(detector.vqvae) + _megabytes(detector.prior)
    ruled = {name: name for name in names if name in detector.scores}
    unruled = {name: NO_RULE[name] for name in names if NO_RULE.get(name) in detector.scores}
    for rule, todo in ((detector.neighbour_rule, ruled), (False, unruled)):
        if not todo:
            continue
        words = f"compare@{category} package" if todo is ruled else f"compare@{category} without the rule"
        here = replace(detector, neighbour_rule=rule)
        maps = look((here,), trial.images, 1.0, words)
        if todo is ruled:
            limits = thresholds(root, category)
        else:  # without the rule normal images look otherwise, too
            calib = look((here,), trial.calib, 1.0, words)
            here = replace(here, standards=standards(here, calib))
            limits = {
                score: threshold(image_scores(here, calib, score, trial.area), trial.false_alarms)
                for score in todo.values()
            }
        for name, score in todo.items():
            measured = judge(limits[score], here.score(maps, score), trial, settings.evaluate, _reach(inspector, score))
            yield measured | {
                "method": name,
                "what": _what(here, score) + (", without the neighbour rule" if todo is unruled else ""),
                "chosen": todo is ruled and score == inspector.calibration["score"],
                "fit_seconds": seconds,
                "inference_ms": milliseconds(_scorer(here, score), trial.images, device),
                "megabytes": size,
                "note": "" if todo is ruled or detector.neighbour_rule else "the package has no rule either",
            }


def training_seconds(root: Path, category: str) -> float:
    """What the training of both networks took."""
    folders = [stage.folder(root, category, name) for name in ("train_vqvae", "train_prior")]
    return sum(float(pd.read_csv(folder / "curves.csv").seconds.iloc[-1]) for folder in folders)


def variant_rows(
    root: Path, settings: Settings, inspector: Inspector, trial: Trial, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The method with other settings, trained and calibrated or loaded, by the score that its own calibration chose.

    Where the package has those settings itself, the row has only a note.
    """
    category, device = settings.category, inspector.device
    for name in names:
        row = {"method": name, "what": variants.VARIANTS[name].title, "chosen": False, "note": ""}
        if variants.same(inspector, name):
            yield row | {"note": "left out: the package is one, see its own rows"}
            continue
        other = variants.fit_or_load(root, category, name, device)
        here, score = other.detector, str(other.calibration["score"])
        maps = look((here,), trial.images, 1.0, f"compare@{category} {name}")
        measured = judge(other.pixel_threshold, here.score(maps, score), trial, settings.evaluate, other.reach)
        yield (
            row
            | measured
            | {
                "what": f"{row['what']}: {_what(here, score)}",
                "fit_seconds": training_seconds(variants.folder(root, category, name), category),
                "inference_ms": milliseconds(_scorer(here, score), trial.images, device),
                "megabytes": _megabytes(here.vqvae) + _megabytes(here.prior),
            }
        )


def baseline_rows(
    root: Path, settings: Settings, configs: Baselines, inspector: Inspector, trial: Trial, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The baselines `names`, trained or loaded; one whose network is not installed has only a note."""
    if not names:
        return
    device, size = inspector.device, inspector.image_size
    images_key = stage.file_sha256(stage.folder(root, settings.category, "augment") / "images-train.npy")
    frame = Frame(inspector.channels, size, inspector.detector.bilateral)
    for name in names:
        row = {"method": name, "what": CLASSES[name].title, "chosen": False, "note": ""}
        try:
            fitted = fit_or_load(root, name, settings, configs, frame, images_key, device)
        except MissingBackboneError as error:
            yield row | {"note": f"left out: {error}"}
            continue
        calib, maps = (maps_of(fitted.model.maps, images, device) for images in (trial.calib, trial.images))
        print(f"compare@{settings.category} {name} {'loaded' if fitted.loaded else 'fitted'} and scored", flush=True)
        yield (
            row
            | judge(limit(calib, trial), maps, trial, settings.evaluate)
            | {
                "fit_seconds": fitted.seconds,
                "inference_ms": milliseconds(fitted.model.maps, trial.images, device),
                "megabytes": _megabytes(fitted.model),
            }
        )


def protocol(inspector: Inspector, trial: Trial, config: Evaluate) -> str:
    """What the numbers are and how they came about."""
    normal = int((trial.cases.label == 0).sum())
    defective = len(trial.cases) - normal
    kind = "synthetic negatives painted on them (no real defect is known)" if trial.synthetic else "defective images"
    unmarked = int((trial.cases.mask_known == 0).sum())
    return (
        f"One protocol for every row: {normal} normal images and {defective} {kind}, {unmarked} of them without a "
        f"mask, at {inspector.image_size} x {inspector.image_size} pixels; nothing was trained, fitted or chosen on "
        f"them. Threshold: what a Gumbel distribution fitted to the image scores of {len(trial.calib)} calibration "
        f"normals says {trial.false_alarms:.1%} of normal images exceed. Image score: the highest "
        f"level at which an 8-connected region of {trial.area} pixels survives; verdict: score > threshold. pro, "
        "pixel_f1, image_balanced_accuracy and image_f1 hold at that threshold; marked are the regions above it of "
        "that size, in rows of a model's scores, but for Eq. 6, less what is below half of the highest one near it. "
        f"aupro_30: per-region overlap integrated over the pixel false-positive rate to {config.aupro_limit}. "
        "fit_seconds: of training, on whatever else the machine was doing. inference_ms: from an image at this size to "
        "its score map, one at a time. "
        "megabytes: weights. The package's rows share one training, eta "
        f"{inspector.calibration['eta']:g} (also without the rule), time and size of both its networks; the score "
        "marked `chosen` is the one that the calibration images chose. A variant has a training, eta and score of its "
        "own, chosen in the same way."
    )


def _what(detector: Detector, score: str) -> str:
    parts = detector.scores[score]
    if len(parts) > 1:
        return " + ".join(parts) + ", each standardised"
    return WHAT.get(score, score)


def _reach(inspector: Inspector, score: str) -> int:
    return 0 if score == AS_DRAWN else inspector.reach


def _scorer(detector: Detector, name: str) -> Score:
    return lambda x: detector.score(detector.look(x, detector.scores[name])[0], name)


def _megabytes(model: nn.Module) -> float:
    tensors: Mapping[str, Tensor] = model.state_dict()
    return sum(t.numel() * t.element_size() for t in tensors.values()) / 1e6
