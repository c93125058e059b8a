"""Other methods' numbers on public test sets, each with its source; shown only where the test set is the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
METRICS = ("image_auroc", "pixel_auroc", "aupro_30", "pro", "image_balanced_accuracy", "image_f1", "pixel_f1")


@dataclass(frozen=True)
class PublicSet:
    """A public test set: its name, the licence of its images and where it was published."""

    dataset: str
    name: str
    category: str
    licence: str
    source: str


def public_set(category: str, evaluated_on: str, normal: int, defective: int) -> PublicSet | None:
    """The public test set that a category is, or None.

    A name alone proves nothing (a plant may well have bottles of its own), so the numbers of normal and defective
    test images must be the published ones too, and the images must be the test set's own.
    """
    if evaluated_on != "test":
        return None
    for row in pd.read_csv(HERE / "datasets.csv").itertuples():
        names = str(row.category).split()
        if category in names and (row.normal, row.defective) == (normal, defective):
            return PublicSet(str(row.dataset), str(row.name), names[0], str(row.licence), str(row.source))
    return None


def results(found: PublicSet) -> pd.DataFrame:
    """A row per method published for the set: method, kind (paper, peer, paper's baseline), METRICS (NaN where
    nothing was published), source."""
    table = pd.read_csv(HERE / "results.csv")
    chosen = table[(table.dataset == found.dataset) & (table.category == found.category)]
    return chosen[["method", "kind", *METRICS, "source"]].reset_index(drop=True)
