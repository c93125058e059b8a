"""The evaluation as one HTML page that needs nothing beside it: no script, no file and no address is loaded.

`collect` reads what the stages left in artifacts/<category>, `render` makes the page of it. What is not there (the
curves of a training that was elsewhere, a likelihood that a model does not have) is left out of the page. The
trainings' files are no dependency of the stage; the package, which is one, is made from them and changes with them.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jinja2 import Environment

from components.evaluate.gallery import KINDS
from components.evaluate.published import METRICS, PublicSet, results
from components.stage import read_json

TEMPLATE = Path(__file__).with_name("report.html.jinja")
PICTURES = 4_500_000  # bytes of all pictures together; a third more as text, which keeps the page below 8 MB
WRONG = 40  # rows of the list of wrong verdicts
NAMES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro_30": "AUPRO",
    "pro": "PRO at the threshold",
    "image_balanced_accuracy": "balanced accuracy",
    "image_f1": "F1, images",
    "pixel_f1": "F1, pixels",
    "normal_false_positive_rate": "false positives among normals",
}
TRAININGS = {"train_vqvae": "The autoencoder (VQ-VAE)", "train_prior": "The prior (PixelSNAIL)"}


@dataclass(frozen=True)
class Tile:
    """One picture of the gallery: what it shows and its bytes as a data address."""

    name: str
    address: str
    side: int


@dataclass(frozen=True)
class Facts:
    """What the page shows. `shares`: of each code among the training codes; `trainings`: stage to its curves."""

    category: str
    metrics: dict[str, Any]
    per_defect: list[dict[str, Any]]
    scores: pd.DataFrame
    curves: dict[str, np.ndarray]
    calibration: dict[str, Any]
    shares: np.ndarray
    trainings: dict[str, pd.DataFrame]
    gallery: list[dict[str, Any]]
    scale: str
    public: PublicSet | None  # the public test set that this is
    limit: float


def collect(artifacts: Path, category: str, limit: float) -> Facts:
    """Read artifacts/<category>; `limit` is the false-positive rate that AUPRO goes to."""
    folder = artifacts / "evaluate"
    metrics = read_json(folder / "metrics.json")
    bundle = artifacts / "package" / "bundle.json"
    scores = _table(folder / "scores.csv")
    public = metrics.get("public_set")
    tables = {name: _table(artifacts / name / "curves.csv") for name in TRAININGS}
    return Facts(
        category=category,
        metrics=metrics,
        per_defect=[
            {str(k): v for k, v in row.items()} for row in _table(folder / "per_defect.csv").to_dict("records")
        ],
        scores=scores,
        curves=_arrays(folder / "curves.npz"),
        calibration=read_json(bundle).get("calibration") or {} if bundle.is_file() else {},
        shares=_shares(artifacts / "extract_codes"),
        trainings={name: table for name, table in tables.items() if "epoch" in table},
        gallery=_gallery(folder / "gallery"),
        scale=_address(folder / "gallery" / "scale.png"),
        public=PublicSet(**public) if public else None,
        limit=limit,
    )


def render(facts: Facts) -> str:
    """The page. Where a version came from is not known here; publication adds it before </main>."""
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"number": number, "percent": percent}
    drawn = {name: svg for name, svg in _charts(facts).items() if svg}
    published = results(facts.public) if facts.public else pd.DataFrame(columns=["method", *METRICS])
    return page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        facts=facts,
        names=NAMES,
        columns=METRICS,
        charts=drawn,
        published=published.to_dict("records"),
        wrong=_wrong(facts.scores),
        wrong_limit=WRONG,
        trainings=TRAININGS,
        code_facts=_code_facts(facts.shares),
    )


def number(value: Any) -> str:
    """Three decimals; a dash for what there is not."""
    return "–" if value is None or pd.isna(value) else f"{float(value):.3f}"


def percent(value: Any) -> str:
    """A share as a percentage; a dash for what there is not."""
    return "–" if value is None or pd.isna(value) else f"{float(value):.1%}"


def _charts(facts: Facts) -> dict[str, str]:
    from components.evaluate import charts  # matplotlib takes a second to import, which a lineage need not wait for

    metrics, curves, scores = facts.metrics, facts.curves, facts.scores
    thresholds = {"threshold": float(metrics["image_threshold"])}
    if metrics["pixel_threshold"] != metrics["image_threshold"]:
        thresholds["threshold of pixels"] = float(metrics["pixel_threshold"])
    none = np.zeros(0)
    calibration = np.asarray(facts.calibration.get("normal_scores") or none, float)
    normal, defect = curves.get("normal_scores", none), curves.get("defect_scores", none)
    drawn = {"histogram": charts.histogram(normal, defect, calibration, thresholds)}
    if len(scores):
        drawn["types"] = charts.per_type(scores, thresholds)
    if "image_fpr" in curves:
        rates = [float(scores.verdict[scores.label == label].mean()) for label in (0, 1)] if len(scores) else None
        at = (rates[0], rates[1]) if rates else None
        drawn["roc"] = charts.roc(curves["image_fpr"], curves["image_tpr"], metrics["image_auroc"], at)
    if "pro_fpr" in curves:
        drawn["pro"] = charts.pro(curves["pro_fpr"], curves["pro"], facts.limit, metrics["aupro_30"], metrics["pro"])
    if len(facts.shares):
        drawn["codebook"] = charts.codebook(facts.shares)
    for name, table in facts.trainings.items():
        drawn[f"{name} losses"] = charts.losses(table, name)
        drawn[f"{name} codes"] = charts.code_use(table, name)
    return drawn


def _wrong(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Images with the wrong verdict, the furthest off first."""
    if scores.empty:
        return []
    wrong = scores[scores.label != scores.verdict]
    wrong = wrong.assign(what=np.where(wrong.label == 1, "missed defect", "false alarm"))
    return wrong.sort_values(["label", "score"], ascending=[False, True]).to_dict("records")  # type: ignore[return-value]


def _code_facts(shares: np.ndarray) -> dict[str, float]:
    used = shares[shares > 0]
    perplexity = float(np.exp(-(used * np.log(used)).sum())) if len(used) else 0.0
    return {"size": len(shares), "used": len(used), "perplexity": perplexity}


def _shares(folder: Path) -> np.ndarray:
    if not (folder / "codes.npz").is_file() or not (folder / "summary.json").is_file():
        return np.zeros(0)
    codes = _arrays(folder / "codes.npz")["train"].ravel()
    counts = np.bincount(codes, minlength=int(json.loads((folder / "summary.json").read_text())["codebook_size"]))
    return counts / counts.sum()


def _gallery(folder: Path) -> list[dict[str, Any]]:
    """The rows of gallery.csv, each with its tiles as pictures that together keep within PICTURES bytes."""
    rows = _table(folder / "gallery.csv").to_dict("records")
    count = sum(len(row["tiles"].split("|")) for row in rows)
    for row in rows:
        strip = np.asarray(cv2.imdecode(np.fromfile(folder / row["file"], np.uint8), cv2.IMREAD_COLOR))
        names = row["tiles"].split("|")
        parts = np.split(strip, len(names), axis=1)
        row["tiles"] = [_tile(name, part, PICTURES // count) for name, part in zip(names, parts, strict=True)]
        row["kind"] = row["kind"] if row["kind"] in KINDS else ""
    return [{str(key): value for key, value in row.items()} for row in rows]


def _tile(name: str, picture: np.ndarray, budget: int) -> Tile:
    """A JPEG within its share of the page: first less sharp, then smaller."""
    while True:
        for quality in (88, 75, 60):
            data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(data) <= budget:
                break
        if len(data) <= budget or min(picture.shape[:2]) < 64:
            address = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
            return Tile(name, address, picture.shape[1])
        picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _address(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}" if path.is_file() else ""


def _table(path: Path) -> pd.DataFrame:
    """A table whose texts stay texts: a defect may be called `null` or `007`."""
    texts = dict.fromkeys(("path", "defect", "file", "tiles", "kind"), str)
    if not path.is_file() or not path.read_bytes().strip():
        return pd.DataFrame()
    numbers = [column for column in pd.read_csv(path, nrows=0).columns if column not in texts]
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={column: [""] for column in numbers})


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path) as stored:
        return {name: stored[name] for name in stored}
