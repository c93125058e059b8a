"""Calibration with known defects: real ones beside those that are painted on normal images.

The paper names this as future work; here it goes as far as choosing goes. `known` is one kind of defect beside the
painted ones, of equal weight whatever its number of images: half of what eta is first judged by (beside the
rectangles), and a fifth of what the score is chosen by (beside the four painted kinds that are for that). Its own
measure is the mean of its image AUROC and, where masks were drawn, its pixel AUROC.

The thresholds stay those of the normal images alone. A threshold lowered to catch what is known has a false-positive
rate that no normal image vouches for, and promises nothing of the defects that are not known yet. What the
thresholds catch of the known defects is counted and told instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from components.arrays import evenly, open_images
from components.metrics import area_score, auroc


@dataclass(frozen=True)
class Known:
    """`images` (N, S, S, C) of the category's depth, `masks` bool (N, S, S), a mask empty where none was drawn;
    `rows`: path and defect of each; `given`: how many the category has, of which these are evenly drawn."""

    images: np.ndarray
    masks: np.ndarray
    rows: pd.DataFrame
    given: int

    @property
    def marked(self) -> np.ndarray:
        """bool (N,): whose defect is drawn."""
        return np.asarray(self.masks.any(axis=(1, 2)))

    def at_most(self, count: int) -> Known:
        """`count` of them or fewer, evenly drawn from the kinds in their order."""
        some = evenly(len(self.images), count)
        return Known(self.images[some], self.masks[some], self.rows.iloc[some], self.given)

    def measure(self, maps: np.ndarray, usual: Sequence[float], area: int) -> dict[str, float]:
        """{"known_image": AUROC against the scores `usual` of normal images, "known_pixel": AUROC of the pixels of
        the images with a mask, where these differ}, from score maps (N, S, S)."""
        own = [area_score(m, area) for m in maps]
        found = {"known_image": auroc([0] * len(usual) + [1] * len(own), [*usual, *own])}
        drawn = self.masks[self.marked]
        if drawn.any() and not drawn.all():  # regions that cover their whole images tell no pixel from another
            found["known_pixel"] = auroc(drawn, maps[self.marked])
        return found

    def caught(self, maps: np.ndarray, threshold: float, area: int) -> pd.DataFrame:
        """path, defect, score and whether it is above the threshold, of each."""
        scores = [area_score(m, area) for m in maps]
        return self.rows.assign(score=scores, caught=[score > threshold for score in scores])


def read(augmented: Path, count: int) -> Known | None:
    """At most `count` known defects of the folder that `augment` wrote; None when the category has none."""
    manifest = pd.read_csv(augmented / "manifest.csv", dtype={"path": str, "defect": str}, keep_default_na=False)
    rows = manifest.loc[manifest["part"] == "known", ["path", "defect"]].reset_index(drop=True)
    if rows.empty:
        return None
    some = evenly(len(rows), count)
    masks = np.load(augmented / "masks-known.npy")
    return Known(open_images(augmented, "known")[some], masks[some], rows.iloc[some], len(rows))


def easy(table: pd.DataFrame) -> pd.Series:
    """What an eta is first judged by: its AUROC on rectangles, with known defects the mean of that and theirs."""
    return table[["rectangles", "known"]].mean(axis=1, skipna=False) if "known" in table else table["rectangles"]


def mean_of_kinds(table: pd.DataFrame, painted: int) -> pd.Series:
    """The mean AUROC of each score over kinds of defect, of which `painted` are painted."""
    known = [name for name in table if str(name).startswith("known_")]
    mean = table.drop(columns=["score", *known]).mean(axis=1)
    return (mean * painted + table[known].mean(axis=1)) / (painted + 1) if known else mean


def summary(known: Known, table: pd.DataFrame) -> dict[str, int]:
    """What calibration.json says: images given, used, with a mask, and caught by the threshold."""
    return {
        "given": known.given,
        "images": len(table),
        "with_mask": int(known.marked.sum()),
        "caught": int(table["caught"].sum()),
    }
