"""The scores on their way to the drift log: collected, and written as one file every few seconds."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pandas as pd

from components.inspector import Inspection
from flows import drift

EVERY = 5.0  # seconds
MOST = 10_000  # rows kept while the disk refuses them

log = logging.getLogger(__name__)


class ScoreLog:
    """Collects scores. A killed process loses those of the last seconds; one that ends, none."""

    def __init__(self, root: Path, category: str) -> None:
        self.root, self.category = root, category
        self.rows: list[dict[str, object]] = []
        self.lock = threading.Lock()

    def add(self, name: str, model: str, seen: Inspection) -> None:
        """Remember one image's score."""
        least = float(seen.likelihood.min())
        with self.lock:
            self.rows.append({"path": name, "score": seen.score, "least_likelihood": least, "model": model})

    def flush(self) -> None:
        """Write what was collected; what the disk refuses is kept for the next time."""
        with self.lock:
            rows, self.rows = self.rows, []
        if not rows:
            return
        try:
            drift.append(self.root, self.category, pd.DataFrame(rows))
        except OSError as error:  # a full disk must not stop the inspection
            log.warning("%d scores could not be written: %s", len(rows), error)
            with self.lock:
                self.rows = (rows + self.rows)[-MOST:]

    async def keep(self) -> None:
        """Flush every few seconds, for ever."""
        while True:
            await asyncio.sleep(EVERY)
            await asyncio.to_thread(self.flush)
