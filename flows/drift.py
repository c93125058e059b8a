"""Drift: are the scores and likelihoods of late still distributed as those of the calibration?

Two numbers of each inspected image are compared with those of the calibration's images: its score, and the
likelihood of its least likely code. The first says what the verdicts hang on, the second what the prior thinks of
the parts whatever the score is made of. The comparison is a two-sample Kolmogorov-Smirnov test and the population
stability index

    PSI = sum over bins of (r - c) ln(r / c),    r, c the shares of recent and calibration values,

over the calibration's quantiles. With thousands of values the test alone finds differences that mean
nothing, and with few the index alone is noise, so both must say so. Both depend on the order of the values alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from components import scorelog
from flows import plant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = scorelog.COLUMNS
# Column of the log -> where the bundle's calibration has the same of normal images.
COMPARED = {"score": "normal_scores", "least_likelihood": "normal_least_likelihoods"}
RATE = 10  # values a bin of the stability index should hold on average


@dataclass(frozen=True)
class Comparison:
    """One measure's two distributions; `parted` is the verdict."""

    measure: str  # a key of COMPARED
    reference: int  # values of the calibration
    statistic: float  # Kolmogorov-Smirnov's D, 0..1
    p_value: float
    stability: float  # PSI, 0 for equal shares
    parted: bool

    def __str__(self) -> str:
        verdict = "parted" if self.parted else "as calibrated"
        numbers = f"D = {self.statistic:.3f}, p = {self.p_value:.2g}, PSI = {self.stability:.2f}"
        return f"{self.measure.replace('_', ' ')} {verdict} ({numbers})"


@dataclass(frozen=True)
class DriftReport:
    """The comparison of one category's window."""

    category: str
    model: str
    images: int  # in the window that this model looked at
    comparisons: tuple[Comparison, ...] = ()  # empty when there are too few images
    run_id: str = ""  # the MLflow run with numbers and figure, "" when there were too few

    @property
    def parted(self) -> tuple[str, ...]:
        """The measures whose distributions parted."""
        return tuple(each.measure for each in self.comparisons if each.parted)

    @property
    def payload(self) -> dict[str, Any]:
        """The report as an event carries it."""
        content = asdict(self)
        content["comparisons"] = {each.pop("measure"): each for each in content["comparisons"]}
        return content | {"parted": list(self.parted)}

    def __str__(self) -> str:
        return f"{self.images} images of {self.model}: " + ("; ".join(map(str, self.comparisons)) or "too few")


def append(root: Path, category: str, table: pd.DataFrame, now: datetime | None = None) -> Path | None:
    """Append scores to the category's log; returns the file written, None when no row has a score.

    `table` has path, score, least_likelihood and model (production.<category>/<version>) per image.
    """
    return scorelog.append(folder(root, category), table, now)


def recent(root: Path, category: str, since: datetime) -> pd.DataFrame:
    """The log's rows from `since` on, oldest first; columns COLUMNS."""
    return scorelog.recent(folder(root, category), since)


def folder(root: Path, category: str) -> Path:
    """Where the category's log is: below what KINTSUGI_SCORES names, else in the workspace."""
    return (scorelog.place() or root / "logs" / "inspections") / category


def compare(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Recent and calibration values -> (Kolmogorov-Smirnov's D, its p-value, PSI)."""
    from scipy.stats import ks_2samp

    test: Any = ks_2samp(values, reference)
    return float(test.statistic), float(test.pvalue), population_stability(values, reference)


def population_stability(values: Sequence[float], reference: Sequence[float]) -> float:
    """PSI over 2 to 10 bins of equal share of the reference; half a count stands in for an empty bin."""
    bins = int(np.clip(min(len(values), len(reference)) // RATE, 2, 10))
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))

    def shares(values: Sequence[float]) -> np.ndarray:
        counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
        return np.asarray(np.maximum(counts, 0.5) / len(values))

    now, then = shares(values), shares(reference)
    return float(((now - then) * np.log(now / then)).sum())


def drift(root: Path, category: str, window: timedelta | None = None) -> DriftReport:
    """Compare the window's images (default: the setting) with those of the serving model's calibration.

    Only what this very model said is compared; a measure that its bundle has no calibration of is left out. The
    result goes to MLflow's experiment drift/<category> as one run with a figure, unless there are too few images.
    Raises UserError when the category has no model.
    """
    settings = plant.load(root, category).drift
    model, names, references = _calibration(root, category)
    rows = recent(root, category, datetime.now(UTC) - (window or timedelta(days=settings.days)))
    rows = rows[rows["model"].isin(names)]
    if len(rows) < settings.images or not references:
        return DriftReport(category, model, len(rows))
    comparisons = []
    for measure, reference in references.items():
        statistic, p_value, stability = compare(rows[measure].astype(float).tolist(), reference)
        parted = p_value < settings.p_value and stability > settings.stability
        comparisons.append(Comparison(measure, len(reference), statistic, p_value, stability, parted))
    report = DriftReport(category, model, len(rows), tuple(comparisons))
    figure = draw(rows, references, report)
    return DriftReport(**{**vars(report), "run_id": _log(root, report, rows, figure)})


def _calibration(root: Path, category: str) -> tuple[str, set[str], dict[str, list[float]]]:
    """The serving model, the names it has in the log, and measure -> its values on normal images."""
    from components import stage
    from flows.adapters import registry, served, tracking

    client = tracking.connect(root)
    version = registry.resolve(client, category, None)
    package = served.checked_package(client, version)
    bundle = stage.read_json(package / "bundle.json")
    known = {measure: bundle["calibration"].get(key, []) for measure, key in COMPARED.items()}
    model = f"{version.name}/{version.version}"
    # MLflow's own server does not tell the model its version, so mlflow/model.py logs the hash of its weights.
    return (
        model,
        {model, f"sha256:{bundle['sha256']}"},
        {m: list(map(float, v)) for m, v in known.items() if len(v) > 1},
    )


def draw(rows: pd.DataFrame, references: Mapping[str, Sequence[float]], report: DriftReport) -> Figure:
    """For each measure: both distributions as cumulative shares, and the recent values over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.5 * len(report.comparisons)), layout="constrained")
    figure.suptitle(f"{report.category}, {report.model}")
    for compared, (shares, times) in zip(
        report.comparisons, figure.subplots(len(report.comparisons), 2, squeeze=False), strict=True
    ):
        reference, values = references[compared.measure], rows[compared.measure].astype(float)
        for drawn, name in ((reference, "calibration"), (values, "recent")):
            shares.ecdf(np.asarray(drawn, dtype=float), label=f"{name} ({len(drawn)})")
        shares.set(xlabel=compared.measure.replace("_", " "), ylabel="share")
        shares.set_title(str(compared), fontsize="medium")
        shares.legend()
        times.plot(rows["time"], values, ".", markersize=3)
        if compared.measure == "least_likelihood" and min(values.min(), *reference) > 0:
            shares.set_xscale("log")
            times.set_yscale("log")
    return figure


def _log(root: Path, report: DriftReport, rows: pd.DataFrame, figure: Figure) -> str:
    from flows.adapters import tracking

    client = tracking.connect(root)
    experiment = tracking.experiment(client, root, f"drift/{report.category}")
    tags = {"model": report.model, "parted": ", ".join(report.parted), "category": report.category}
    run_id = str(client.create_run(experiment, tags=tags, run_name=f"{datetime.now(UTC):%Y-%m-%d %H:%M}").info.run_id)
    client.log_metric(run_id, "images", report.images)
    for each in report.comparisons:
        values = {
            "ks_statistic": each.statistic, "p_value": each.p_value, "population_stability": each.stability,
            "median": float(rows[each.measure].median()),
        }  # fmt: skip
        for name, value in values.items():
            client.log_metric(run_id, f"{each.measure}/{name}", value)
    client.log_figure(run_id, figure, "distributions.png")
    client.set_terminated(run_id)
    return run_id
