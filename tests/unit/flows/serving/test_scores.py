"""Scores reach the drift log in few files, and a full disk stops no inspection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components import scorelog
from flows import drift
from flows.serving.scores import ScoreLog


def seen(score: float) -> Any:
    return SimpleNamespace(score=score, likelihood=np.array([[0.5, 0.25]], np.float32))


def logged(root: Path) -> list[float]:
    return sorted(drift.recent(root, "brick", datetime.now(UTC) - timedelta(hours=1))["score"])


def test_many_scores_make_one_file(tmp_path: Path) -> None:
    log = ScoreLog(tmp_path, "brick")
    log.flush()
    for number in range(20):
        log.note(f"{number}.png", "production.brick/1", seen(number))
    log.flush()
    log.flush()
    assert logged(tmp_path) == list(range(20))
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_what_the_disk_refuses_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log = ScoreLog(tmp_path, "brick")
    log.note("a.png", "production.brick/1", seen(1))
    monkeypatch.setattr(scorelog, "append", full)
    log.flush()
    log.note("b.png", "production.brick/1", seen(2))
    monkeypatch.undo()
    log.flush()
    assert logged(tmp_path) == [1, 2]
