"""The log of scores and the comparison of distributions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components import scorelog
from flows import drift

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def scores(values: list[float | None]) -> pd.DataFrame:
    rows = {"path": "a.png", "score": values, "least_likelihood": 0.1, "model": "production.brick/1"}
    return pd.DataFrame(rows)


def test_the_log_keeps_what_was_scored_and_when(tmp_path: Path) -> None:
    assert drift.append(tmp_path, "brick", scores([None])) is None
    for days, value in ((9, 1.0), (2, 2.0), (1, 3.0)):
        drift.append(tmp_path, "brick", scores([value, None]), NOW - timedelta(days=days))
    found = drift.recent(tmp_path, "brick", NOW - timedelta(days=7))
    assert found["score"].tolist() == [2.0, 3.0] and list(found.columns) == list(drift.COLUMNS)
    assert not len(drift.recent(tmp_path, "tile", NOW))


@pytest.mark.parametrize("size", [30, 1000])
def test_equal_distributions_do_not_part(size: int) -> None:
    noise = np.random.default_rng(1)
    draws = [(noise.normal(size=200).tolist(), noise.normal(size=size).tolist()) for _ in range(50)]
    compared = [drift.compare(*draw) for draw in draws]
    assert not any(p_value < 0.001 and stability > 0.25 for _, p_value, stability in compared)


def test_a_shift_parts() -> None:
    noise = np.random.default_rng(1)
    _, p_value, stability = drift.compare((noise.normal(size=200) + 1).tolist(), noise.normal(size=100).tolist())
    assert p_value < 0.001 and stability > 0.25


def test_stability_by_hand() -> None:
    # two bins of the reference, split at its median 1.5; shares .5/.5 against .25/.75
    expected = (0.25 - 0.5) * np.log(0.25 / 0.5) + (0.75 - 0.5) * np.log(0.75 / 0.5)
    assert drift.population_stability([0, 2, 3, 4], [0, 1, 2, 3]) == pytest.approx(expected)


def test_the_environment_names_a_place_that_several_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(scorelog.PLACE, str(tmp_path / "shared"))
    drift.append(tmp_path / "one", "brick", scores([1.0]), NOW)
    drift.append(tmp_path / "another", "brick", scores([2.0]), NOW)
    assert len(drift.recent(tmp_path, "brick", NOW - timedelta(days=1))) == 2
    assert not (tmp_path / "one").exists()


def test_a_writer_keeps_what_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "brick"
    place.write_text("a file where the folder should be")
    writer = scorelog.Writer(place)
    row: dict[str, object] = {"path": "row 0", "score": 1.0, "least_likelihood": 0.5, "model": "sha256:0"}
    writer.add([row])
    writer.flush_in_time()
    assert writer.rows == [row]  # and no error
    place.unlink()
    writer.add([row])
    writer.flush_in_time()  # too soon after the last time
    assert not place.exists()
    monkeypatch.setattr(scorelog, "EVERY", 0.0)
    writer.add([row])
    writer.flush_in_time()
    assert len(scorelog.recent(place, NOW - timedelta(days=1))) == 3 and writer.rows == []
