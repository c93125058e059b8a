"""Which images are shown for each kind of defect, and the pictures of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.evaluate.figures import tiles
from components.evaluate.protocol import Case
from components.inspector import Inspector

KINDS = ("worst", "borderline", "best")  # in the order in which a small budget is spent
LONGEST = 40  # characters of a defect's name in a file's
COLUMNS = ("file", "path", "defect", "label", "kind", "score", "verdict", "tiles")


def choose(scores: pd.DataFrame, threshold: float, count: int) -> pd.DataFrame:
    """`count` images of each defect type: best, worst and borderline in turn, none twice.

    Best is furthest on the right side of the threshold (a defect with a high score, a good part with a low one),
    worst furthest on the wrong side, borderline nearest to it. Returns the chosen rows of `scores`, index kept,
    with the column `kind`; good parts first, within a type from worst to best.
    """
    chosen = []
    margin = (scores.score - threshold) * np.where(scores.label == 1, 1, -1)
    for _, group in scores.groupby("defect", sort=False):
        own = margin[group.index]
        ranks = {
            "worst": own.sort_values(kind="stable").index,
            "borderline": own.abs().sort_values(kind="stable").index,
            "best": own.sort_values(ascending=False, kind="stable").index,
        }
        taken: dict[int, str] = {}
        while len(taken) < min(count, len(group)):
            kind = KINDS[len(taken) % len(KINDS)]
            taken[next(index for index in ranks[kind] if index not in taken)] = kind
        chosen.append(scores.loc[list(taken)].assign(kind=pd.Series(taken)))
    if not chosen:
        return scores.head(0).assign(kind="")
    table = pd.concat(chosen)
    order = table.kind.map({kind: place for place, kind in enumerate(KINDS)})
    return table.assign(order=order).sort_values(["label", "defect", "order"], kind="stable").drop(columns="order")


def write(folder: Path, inspector: Inspector, todo: Sequence[Case], chosen: pd.DataFrame) -> None:
    """Write a PNG per chosen case (its tiles side by side), gallery.csv, and scale.png, the heat maps' colours from
    the lowest to the highest. The cases are inspected again: keeping every map until the scores are known would
    fill the memory."""
    shutil.rmtree(folder, ignore_errors=True)  # DVC does that before a stage, a person who runs one does not
    folder.mkdir(parents=True)
    rows: list[dict[str, object]] = []
    names: set[str] = set()
    for index, row in zip(chosen.index.tolist(), chosen.to_dict("records"), strict=True):
        image, mask = todo[index].read()
        shown = tiles(inspector, image, mask, inspector.inspect([image])[0])
        base, number = f"{row['defect'][:LONGEST]}-{row['kind']}", 1
        while (name := f"{base}.png" if number == 1 else f"{base}-{number}.png") in names:
            number += 1
        names.add(name)
        picture = np.concatenate(list(shown.values()), axis=1)
        (folder / name).write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        facts = {column: row[column] for column in ("path", "defect", "label", "kind", "score", "verdict")}
        rows.append({"file": name, **facts, "tiles": "|".join(shown)})
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "gallery.csv", index=False)
    low = float(inspector.calibration["map_low"])
    levels = np.linspace(low, 2 * inspector.pixel_threshold - low, 256, dtype=np.float32)
    scale = inspector.colours(levels[None].repeat(8, axis=0))
    (folder / "scale.png").write_bytes(cv2.imencode(".png", scale[..., ::-1])[1].tobytes())
