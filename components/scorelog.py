"""The log of scores: what the models in service said of each image, for `flows/drift.py` to compare.

One folder per category with Parquet files named by day, each written whole by one writer, so that writers
never meet, on one machine or on several that share the folder. The environment variable KINTSUGI_SCORES names
where those folders are; a workspace has a place of its own (logs/inspections), a served model without a
checkout has none and then keeps no log.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

PLACE = "KINTSUGI_SCORES"
COLUMNS = ("time", "path", "score", "least_likelihood", "model")
EVERY = 5.0  # seconds between two files of one writer
MOST = 10_000  # rows kept while they cannot be written

log = logging.getLogger(__name__)


def place(default: Path | None = None) -> Path | None:
    """The folder that the environment names, else `default`."""
    named = os.environ.get(PLACE, "")
    return Path(named).expanduser() if named else default


def append(folder: Path, table: pd.DataFrame, now: datetime | None = None) -> Path | None:
    """Write the rows that have a score as one file of a category's `folder`; None when no row has one.

    `table` has path, score, least_likelihood (of any code, 0..1) and model per image.
    """
    scored = table.dropna(subset=["score"])
    if not len(scored):
        return None
    when = now or datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{when.date().isoformat()}-{uuid.uuid4().hex}.parquet"
    part = path.with_name(f".{path.name}.part")
    scored.assign(time=pd.Timestamp(when))[list(COLUMNS)].to_parquet(part, index=False)
    part.replace(path)
    return path


def recent(folder: Path, since: datetime) -> pd.DataFrame:
    """The rows of a category's `folder` from `since` on, oldest first; columns COLUMNS."""
    day = since.date().isoformat()
    tables = [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet")) if path.name >= day]
    if not tables:
        return pd.DataFrame(columns=list(COLUMNS))
    rows = pd.concat(tables, ignore_index=True)
    return rows[rows["time"] >= pd.Timestamp(since)].sort_values("time", kind="stable", ignore_index=True)


class Writer:
    """Collects rows and writes them as few files; a log that cannot be written stops no inspection.

    A killed process loses the rows of the last seconds; one that ends, none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, object]] = []
        self.last = float("-inf")
        self.lock = threading.Lock()
        atexit.register(self.flush)

    def add(self, rows: list[dict[str, object]]) -> None:
        """Keep rows (path, score, least_likelihood, model) for the next `flush`; touches no disk."""
        with self.lock:
            self.rows = (self.rows + rows)[-MOST:]

    def flush_in_time(self) -> None:
        """Flush unless the last time was only just now: for who has no thread that does it every few seconds."""
        if time.monotonic() - self.last >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is kept; what the disk refuses is kept for the next time."""
        with self.lock:
            rows, self.rows, self.last = self.rows, [], time.monotonic()
        if not rows:
            return
        try:
            append(self.folder, pd.DataFrame(rows))
        except OSError as error:
            log.warning("%d scores could not be written to %s: %s", len(rows), self.folder, error)
            with self.lock:
                self.rows = (rows + self.rows)[-MOST:]
