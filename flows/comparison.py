"""`kintsugi compare`: the table of all methods as CSV, Markdown, a figure and an MLflow run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from components import settings
from components.baselines import settings as baselines
from components.compare import COSTS, Comparison, compare, names_of
from components.stage import read_json
from components.trial import METRICS
from flows.adapters import tracking

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

FIGURE = ("image_auroc", "pixel_auroc", "aupro_30")
DECIMALS = dict.fromkeys(METRICS, 3) | {"threshold": 2, "fit_seconds": 0, "inference_ms": 1, "megabytes": 2}


@dataclass(frozen=True)
class Compared:
    """One category's comparison: its rows (absent numbers are None), the files and the MLflow run."""

    category: str
    rows: list[dict[str, Any]]
    protocol: str
    folder: Path
    run_id: str


def compare_category(root: Path, category: str, methods: Sequence[str] = ()) -> Compared:
    """Compare the methods (all by default) on a category; write compare/<category>/ and an MLflow run.

    Raises UserError for an unknown method or setting, and for a category whose stages have not run.
    """
    names, resolved, configs = names_of(methods), settings.load(root, category), baselines.load(root)
    comparison = compare(root, resolved, configs, names)
    folder = root / "compare" / category
    write(comparison, folder)
    run_id = log(root, comparison, folder, configs)
    table = comparison.table.astype(object).where(comparison.table.notna(), None)
    rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    return Compared(category, rows, comparison.protocol, folder, run_id)


def write(comparison: Comparison, folder: Path) -> None:
    """Write table.csv, table.md and figure.png."""
    folder.mkdir(parents=True, exist_ok=True)
    comparison.table.to_csv(folder / "table.csv", index=False)
    (folder / "table.md").write_text(markdown(comparison), encoding="utf-8")
    draw(comparison).savefig(folder / "figure.png", dpi=120)


def markdown(comparison: Comparison) -> str:
    """The table with the best of each column in bold, the calibration's choice marked, and the protocol."""
    table = comparison.table
    done = table[table["threshold"].notna()]
    columns = [*METRICS, *COSTS]
    best = {c: (done[c].min() if c in COSTS else done[c].max()) for c in columns}
    lines = [
        f"# {comparison.category}: every method on one protocol\n",
        "| " + " | ".join(["method", "what", *columns]) + " |",
        "|---" * 2 + "|---:" * len(columns) + "|",
    ]
    for _, row in done.iterrows():
        name = f"`{row['method']}`" + (" (chosen)" if row["chosen"] else "")
        cells = [_cell(float(row[c]), DECIMALS[c], best[c]) for c in columns]
        lines.append("| " + " | ".join([name, str(row["what"]), *cells]) + " |")
    notes = [f"- `{row['method']}`: {row['note']}" for _, row in table[table["note"] != ""].iterrows()]
    legend = "Bold: best of its column. `(chosen)`: the score that the calibration images chose, never the test images."
    return "\n".join([*lines, "", legend, "", *notes, *([""] if notes else []), comparison.protocol, ""])


def _cell(value: float, decimals: int, best: float) -> str:
    if math.isnan(value):
        return "–"
    text = f"{value:.{decimals}f}"
    return f"**{text}**" if text == f"{best:.{decimals}f}" else text


def draw(comparison: Comparison) -> Figure:
    """A line per method, a mark per ranking metric."""
    from matplotlib.figure import Figure

    table = comparison.table[comparison.table["threshold"].notna()][::-1]
    figure = Figure(figsize=(9, 1.8 + 0.35 * len(table)), layout="constrained")
    axes = figure.subplots()
    for column, marker in zip(FIGURE, "osD", strict=True):
        axes.plot(table[column], range(len(table)), marker, label=column, alpha=0.8)
    marks = ["\N{BLACK RIGHT-POINTING TRIANGLE} " if chosen else "" for chosen in table["chosen"]]
    axes.set_yticks(range(len(table)), [mark + name for mark, name in zip(marks, table["method"], strict=True)])
    axes.set(title=f"{comparison.category} (\N{BLACK RIGHT-POINTING TRIANGLE} chosen by calibration)", xlabel="area")
    axes.grid(axis="both", alpha=0.3)
    axes.set_ylim(-0.7, len(table) - 0.3)
    figure.legend(loc="outside lower center", ncols=len(FIGURE))
    return figure


def log(root: Path, comparison: Comparison, folder: Path, configs: baselines.Baselines) -> str:
    """Write the comparison as one run of the experiment compare/<category>; its id."""
    client = tracking.connect(root)
    experiment = tracking.experiment(client, root, f"compare/{comparison.category}")
    bundle = read_json(root / "artifacts" / comparison.category / "package" / "bundle.json")
    chosen = str(bundle["calibration"]["score"])
    tags = {
        "category": comparison.category,
        "protocol": comparison.protocol,
        "chosen": chosen,
        "package.sha256": str(bundle["sha256"]),
    }
    run_id = str(client.create_run(experiment, tags=tags, run_name=f"compare {comparison.category}").info.run_id)
    _log_rows(client, run_id, comparison.table)
    for name, value in tracking.flatten(asdict(configs)):
        client.log_param(run_id, name, value)
    client.log_table(run_id, comparison.table, "table.json")
    client.log_artifacts(run_id, str(folder))
    client.set_terminated(run_id)
    return run_id


def _log_rows(client: MlflowClient, run_id: str, table: pd.DataFrame) -> None:
    for _, row in table.iterrows():
        # MLflow's names know no "+".
        method = re.sub(r"[^\w./ -]", "_and_", str(row["method"]))
        for column in (*METRICS, "threshold", *COSTS):
            if not math.isnan(row[column]):
                client.log_metric(run_id, f"{method}/{column}", float(row[column]))
