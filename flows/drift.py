"""Drift: are the scores of late still distributed as those of the calibration?

Every inspection appends its scores to a log of Parquet files, one a call, so that writers never meet. The
comparison is a two-sample Kolmogorov-Smirnov test and the population stability index

    PSI = sum over bins of (r - c) ln(r / c),    r, c the shares of recent and calibration scores,

over the calibration's quantiles. With thousands of scores the test alone finds differences that mean
nothing, and with few the index alone is noise, so both must say so.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flows import plant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("time", "path", "score", "least_likelihood", "model")
RATE = 10  # scores a bin of the stability index should hold on average


@dataclass(frozen=True)
class DriftReport:
    """The comparison of one category's window; `parted` is the verdict."""

    category: str
    model: str
    images: int  # scores in the window that this model gave
    reference: int  # scores of the calibration
    statistic: float = 0.0  # Kolmogorov-Smirnov's D, 0..1
    p_value: float = 1.0
    stability: float = 0.0  # PSI, 0 for equal shares
    parted: bool = False
    run_id: str = ""  # the MLflow run with numbers and figure, "" when there were too few scores


def append(root: Path, category: str, table: pd.DataFrame, now: datetime | None = None) -> Path | None:
    """Append scores to the category's log; returns the file written, None when no row has a score.

    `table` has path, score, least_likelihood and model (production.<category>/<version>) per image.
    """
    scored = table.dropna(subset=["score"])
    if not len(scored):
        return None
    when = now or datetime.now(UTC)
    folder = root / "logs" / "inspections" / category
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{when.date().isoformat()}-{uuid.uuid4().hex}.parquet"
    part = path.with_name(f".{path.name}.part")
    scored.assign(time=pd.Timestamp(when))[list(COLUMNS)].to_parquet(part, index=False)
    part.replace(path)
    return path


def recent(root: Path, category: str, since: datetime) -> pd.DataFrame:
    """The log's rows from `since` on, oldest first; columns COLUMNS."""
    folder = root / "logs" / "inspections" / category
    day = since.date().isoformat()
    tables = [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet")) if path.name >= day]
    if not tables:
        return pd.DataFrame(columns=list(COLUMNS))
    rows = pd.concat(tables, ignore_index=True)
    return rows[rows["time"] >= pd.Timestamp(since)].sort_values("time", kind="stable", ignore_index=True)


def compare(scores: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Recent and calibration scores -> (Kolmogorov-Smirnov's D, its p-value, PSI)."""
    from scipy.stats import ks_2samp

    test: Any = ks_2samp(scores, reference)
    return float(test.statistic), float(test.pvalue), population_stability(scores, reference)


def population_stability(scores: Sequence[float], reference: Sequence[float]) -> float:
    """PSI over 2 to 10 bins of equal share of the reference; half a count stands in for an empty bin."""
    bins = int(np.clip(min(len(scores), len(reference)) // RATE, 2, 10))
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))

    def shares(values: Sequence[float]) -> np.ndarray:
        counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
        return np.asarray(np.maximum(counts, 0.5) / len(values))

    now, then = shares(scores), shares(reference)
    return float(((now - then) * np.log(now / then)).sum())


def drift(root: Path, category: str, window: timedelta | None = None) -> DriftReport:
    """Compare the window's scores (default: the setting) with the serving model's calibration scores.

    Only scores that this very model gave are compared. The result goes to MLflow's experiment
    drift/<category> as one run with a figure, unless there are too few scores. Raises UserError when the
    category has no model.
    """
    settings = plant.load(root, category).drift
    model, reference = _calibration(root, category)
    since = datetime.now(UTC) - (window or timedelta(days=settings.days))
    rows = recent(root, category, since)
    rows = rows[rows["model"] == model]
    scores = rows["score"].astype(float).tolist()
    if len(scores) < settings.images or len(reference) < 2:
        return DriftReport(category, model, len(scores), len(reference))
    statistic, p_value, stability = compare(scores, reference)
    parted = p_value < settings.p_value and stability > settings.stability
    report = DriftReport(category, model, len(scores), len(reference), statistic, p_value, stability, parted)
    figure = draw(rows, reference, report)
    return DriftReport(**{**vars(report), "run_id": _log(root, report, rows, figure)})


def _calibration(root: Path, category: str) -> tuple[str, list[float]]:
    from components import stage
    from flows.adapters import registry, served, tracking

    client = tracking.connect(root)
    version = registry.resolve(client, category, None)
    package = served.package_in(Path(registry.download(client, version)))
    scores = stage.read_json(package / "bundle.json")["calibration"]["normal_scores"]
    return f"{version.name}/{version.version}", [float(score) for score in scores]


def draw(rows: pd.DataFrame, reference: Sequence[float], report: DriftReport) -> Figure:
    """Both distributions as cumulative shares, and the scores and likelihoods over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    shares, scores, likelihoods = figure.subplots(3, 1)
    for values, name in ((reference, "calibration"), (rows["score"], "recent")):
        shares.ecdf(np.asarray(values, dtype=float), label=f"{name} ({len(values)})")
    shares.set(xlabel="score", ylabel="share")
    shares.set_title(
        f"{report.category}, {report.model}: D = {report.statistic:.3f}, p = {report.p_value:.2g}, "
        f"PSI = {report.stability:.2f}"
    )
    shares.legend()
    for axes, column in ((scores, "score"), (likelihoods, "least_likelihood")):
        axes.plot(rows["time"], rows[column].astype(float), ".", markersize=3)
        axes.set_ylabel(column.replace("_", " "))
    if (rows["least_likelihood"].astype(float) > 0).all():
        likelihoods.set_yscale("log")
    return figure


def _log(root: Path, report: DriftReport, rows: pd.DataFrame, figure: Figure) -> str:
    from flows.adapters import tracking

    client = tracking.connect(root)
    experiment = tracking.experiment(client, root, f"drift/{report.category}")
    tags = {"model": report.model, "parted": str(report.parted).lower(), "category": report.category}
    run_id = str(client.create_run(experiment, tags=tags, run_name=f"{datetime.now(UTC):%Y-%m-%d %H:%M}").info.run_id)
    measures = {
        "ks_statistic": report.statistic, "p_value": report.p_value, "population_stability": report.stability,
        "images": report.images, "score_median": float(rows["score"].median()),
        "least_likelihood_median": float(rows["least_likelihood"].median()),
    }  # fmt: skip
    for name, value in measures.items():
        client.log_metric(run_id, name, value)
    client.log_figure(run_id, figure, "scores.png")
    client.set_terminated(run_id)
    return run_id
