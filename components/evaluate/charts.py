"""The report's charts as SVG that stands inside an HTML page: no file, no font and no address is loaded.

Text stays text, so that it can be read aloud, found and printed sharply. What a colour says, a line style or a mark
says too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

NORMAL, DEFECT, HELD_OUT, LINE = "#0b5ea8", "#c2410c", "#6b7280", "#1f2937"
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#4b5563",
    "axes.labelcolor": LINE,
    "text.color": LINE,
    "grid.color": "#e5e7eb",
}
WIDTH = 5.6  # inches; the page scales a chart to its column
BINS = 36
DECADES = 30  # a loss that falls by more than this is drawn on a logarithmic axis
MARKS = 600  # at most so many images of a type are drawn; a page of a hundred thousand marks would not open
LONGEST = 28  # characters of a name beside an axis
NOT_LOSSES = {"epoch", "step", "seconds", "codes_used", "perplexity"}


def histogram(normal: np.ndarray, defect: np.ndarray, calibration: np.ndarray, thresholds: Mapping[str, float]) -> str:
    """Image scores of the normal, the defective and the calibration images, each threshold a line."""
    parts = [part for part in (normal, defect, calibration) if len(part)]
    if not parts:
        return ""
    edges = np.histogram_bin_edges(np.concatenate(parts), BINS).tolist()
    with rc_context(STYLE):
        figure, axes = _axes("image score", "images")
        if len(calibration):
            axes.hist(calibration, edges, histtype="step", color=HELD_OUT, ls="--", lw=1.6, label="calibration normals")
        if len(normal):
            axes.hist(normal, edges, color=NORMAL, alpha=0.75, label="normal")
        if len(defect):
            axes.hist(defect, edges, color=DEFECT, alpha=0.6, hatch="//", ec="white", lw=0.5, label="defective")
        _thresholds(axes, thresholds)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure)
        return _svg(figure, "histogram")


def per_type(scores: pd.DataFrame, thresholds: Mapping[str, float]) -> str:
    """A row of marks per defect type, one mark per image: what is left of the threshold is called normal."""
    if scores.empty:
        return ""
    kinds = list(dict.fromkeys(scores.sort_values(["label", "defect"]).defect))[::-1]
    with rc_context(STYLE):
        figure, axes = _axes("image score", "", height=1.3 + 0.34 * len(kinds))
        for row, kind in enumerate(kinds):
            own = scores[scores.defect == kind].sort_values("score")
            usual = not own.label.any()
            if len(own) > MARKS:  # evenly over the ranks, first and last included
                own = own.iloc[np.linspace(0, len(own) - 1, MARKS).astype(int)]
            # Spread in a fixed pattern, as images with equal scores would hide each other.
            at = row + (np.arange(len(own)) * 7 % 11 - 5) * 0.055
            axes.plot(own.score, at, "o" if usual else "D", ms=4, color=NORMAL if usual else DEFECT, alpha=0.7, mew=0)
        axes.set_yticks(range(len(kinds)), [_plain(kind) for kind in kinds])
        axes.set_ylim(-0.6, len(kinds) - 0.4)
        _thresholds(axes, thresholds)
        _legend(figure)
        return _svg(figure, "per-type")


def roc(fpr: np.ndarray, tpr: np.ndarray, area: float, verdict: tuple[float, float] | None) -> str:
    """The images' ROC curve, with the point where the threshold stands."""
    with rc_context(STYLE):
        figure, axes = _axes("false-positive rate", "true-positive rate")
        axes.plot([0, 1], [0, 1], ":", color=HELD_OUT, lw=1)
        axes.plot(fpr, tpr, color=NORMAL, lw=2, label=f"ROC, area {area:.3f}")
        if verdict:
            axes.plot(*verdict, "D", color=DEFECT, ms=8, label="at the threshold", zorder=3)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
        _legend(figure)
        return _svg(figure, "roc")


def pro(fpr: np.ndarray, reached: np.ndarray, limit: float, area: float, verdict: float | None) -> str:
    """Per-region overlap over the pixels' false-positive rate; what AUPRO integrates is shaded.

    `verdict`: the overlap at the pixel threshold, marked where the curve reaches it.
    """
    with rc_context(STYLE):
        figure, axes = _axes("false-positive rate of pixels", "per-region overlap")
        inside = np.unique([*fpr[fpr <= limit], limit])
        axes.fill_between(inside, np.interp(inside, fpr, reached), color=NORMAL, alpha=0.15, lw=0)
        axes.axvline(limit, color=HELD_OUT, ls=":", lw=1.2)
        axes.plot(fpr, reached, color=NORMAL, lw=2, label=f"PRO, area to {limit:g}: {area:.3f}")
        if verdict is not None:
            axes.plot(np.interp(verdict, reached, fpr), verdict, "D", color=DEFECT, ms=8, label="at the threshold")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
        _legend(figure)
        return _svg(figure, "pro")


def codebook(shares: np.ndarray) -> str:
    """Share of each code among the training codes, the most used first."""
    with rc_context(STYLE):
        figure, axes = _axes("codes, the most used first", "share of all positions, %")
        order = np.sort(shares)[::-1] * 100
        axes.fill_between(np.arange(len(order)) + 1, order, step="mid", color=NORMAL, lw=0, label="measured")
        axes.axhline(100 / len(order), color=DEFECT, ls="--", lw=1.4, label="all used alike")
        axes.set_xlim(0.5, len(order) + 0.5)
        axes.set_ylim(0)
        _legend(figure)
        return _svg(figure, "codebook")


def losses(curves: pd.DataFrame, name: str) -> str:
    """Every loss of a training per epoch, held-out ones dashed, with the best held-out value marked."""
    numeric = [str(column) for column in curves.select_dtypes("number").dropna(axis=1, how="all")]
    columns = [column for column in numeric if column not in NOT_LOSSES]
    return _per_epoch(curves, columns, "loss", f"{name}-losses", log=True)


def code_use(curves: pd.DataFrame, name: str) -> str:
    """Codes in use and their perplexity per epoch."""
    columns = [c for c in ("codes_used", "perplexity") if c in curves]
    return _per_epoch(curves, columns, "codes", f"{name}-codes", log=False)


def _per_epoch(curves: pd.DataFrame, columns: Sequence[str], label: str, name: str, log: bool) -> str:
    if not columns:
        return ""
    with rc_context(STYLE):
        figure, axes = _axes("epoch", label)
        for number, column in enumerate(columns):
            held_out = column.startswith("val_")
            known = curves[["epoch", column]].dropna().to_numpy(float)
            colour = DEFECT if held_out else (NORMAL, LINE, HELD_OUT)[number % 3]
            shown = column.removeprefix("val_").replace("_", " ") + (" (held out)" if held_out else "")
            axes.plot(*known.T, "--" if held_out else "-", color=colour, lw=1.8, label=_plain(shown))
            if held_out:
                axes.plot(*known[known[:, 1].argmin()], "D", color=colour, ms=6)
        values = curves[list(columns)].to_numpy(float)
        if log and np.nanmin(values) > 0 and np.nanmax(values) > DECADES * np.nanmin(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        elif np.nanmin(values) >= 0:
            axes.set_ylim(0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure)
        return _svg(figure, name)


def _axes(x: str, y: str, height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(True)
    axes.set_axisbelow(True)
    return figure, axes


def _thresholds(axes: Axes, thresholds: Mapping[str, float]) -> None:
    for number, (name, value) in enumerate(thresholds.items()):
        axes.axvline(value, color=LINE, lw=1.6, ls="-" if number == 0 else "-.", label=f"{name} {value:.4g}")


def _legend(figure: Figure) -> None:
    handles, _ = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(loc="outside upper left", ncols=2, frameon=False)


def _plain(text: str) -> str:
    """A name, shortened, that matplotlib shall not read as mathematics."""
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return short.replace("$", r"\$")


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element whose ids no other chart of the page has; the same bytes for the same figure."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    head, body = svg[: svg.index(">")], svg[svg.index(">") :]
    head = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", head)
    head = head.replace("<svg", '<svg aria-hidden="true" focusable="false"')
    # Figures and axes are numbered alike in every chart, but a page may hold an id once.
    own = partial(re.sub, r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-")
    return head + re.sub(r"<[^>]+>", lambda tag: own(tag[0].replace("xlink:href", "href")), body)
