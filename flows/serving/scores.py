"""The scores on their way to the drift log: collected, and written as one file every few seconds."""

from __future__ import annotations

import asyncio
from pathlib import Path

from components.inspector import Inspection
from components.scorelog import EVERY, Writer
from flows import drift


class ScoreLog(Writer):
    """A category's log, written beside the event loop."""

    def __init__(self, root: Path, category: str) -> None:
        super().__init__(drift.folder(root, category))

    def note(self, name: str, model: str, seen: Inspection) -> None:
        """Remember one image's score."""
        least = float(seen.likelihood.min())
        self.add([{"path": name, "score": seen.score, "least_likelihood": least, "model": model}])

    async def keep(self) -> None:
        """Flush every few seconds, for ever."""
        while True:
            await asyncio.sleep(EVERY)
            await asyncio.to_thread(self.flush)
