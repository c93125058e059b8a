"""What stands in the report: which images are shown, and whose numbers stand beside ours."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from components.evaluate import gallery, published
from components.evaluate.published import METRICS, public_set, results


def test_each_type_shows_its_worst_its_nearest_and_its_best() -> None:
    scores = pd.DataFrame({
        "path": list("abcdefgh"), "label": [0, 0, 0, 1, 1, 1, 1, 1], "defect": ["good"] * 3 + ["crack"] * 4 + ["hole"],
        "score": [1.0, 6.0, 2.0, 9.0, 1.0, 5.5, 30.0, 7.0], "verdict": [0, 1, 0, 1, 0, 1, 1, 1],
    })  # fmt: skip
    chosen = gallery.choose(scores, 5.0, 3)
    got = {(row.defect, row.kind): row.path for row in chosen.itertuples()}
    assert got == {
        ("good", "worst"): "b", ("good", "borderline"): "c", ("good", "best"): "a",
        ("crack", "worst"): "e", ("crack", "borderline"): "f", ("crack", "best"): "g", ("hole", "worst"): "h",
    }  # fmt: skip
    assert len(gallery.choose(scores, 5.0, 1)) == 3 and gallery.choose(scores, 5.0, 0).empty
    assert len(gallery.choose(scores, 5.0, 99)) == len(scores)  # none twice


def test_every_published_row_has_a_set_a_source_and_a_number() -> None:
    folder = Path(published.__file__).parent
    table = pd.read_csv(folder / "results.csv")
    sets = pd.read_csv(folder / "datasets.csv")
    known = {(row.dataset, row.category.split()[0]) for row in sets.itertuples()}
    assert set(zip(table.dataset, table.category, strict=True)) <= known
    assert table.source.str.len().gt(10).all() and table[list(METRICS)].notna().any(axis=1).all()
    assert table[list(METRICS)].stack().dropna().between(0, 1).all()
    paper = table[table.kind == "paper"]
    assert len(paper) == 15
    # The means that Wang et al. print under their tables.
    assert paper.image_balanced_accuracy.mean() == pytest.approx(0.85, abs=0.006)
    assert paper.pro.mean() == pytest.approx(0.50, abs=0.006) and paper.pixel_auroc.mean() == pytest.approx(
        0.94, abs=0.006
    )
    assert paper.image_f1.mean() == pytest.approx(0.89, abs=0.006)
    magnetic = public_set("tile", "test", 191, 392)
    assert magnetic and set(results(magnetic).method) >= {"PaDiM", "DifferNet"}
