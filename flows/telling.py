"""Where a stage's lines go while it runs: the terminal, the Prefect log, and a progress artifact."""

from __future__ import annotations

import logging
import re
import time
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.progress import Reporter, Step, parse

EVERY = 5.0  # seconds between two updates on the server


class Teller:
    """Takes the lines of the stage `name` one by one."""

    def __init__(self, name: str, reporter: Reporter, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.name, self.reporter, self.logger = name, reporter, logger
        self._artifact: UUID | None = None
        self._updated = 0.0

    def line(self, line: str) -> None:
        """Show a line; progress goes to the server at most every few seconds, anything else at once."""
        self.reporter.line(self.name, line)
        step = parse(line)
        if step is None:
            self.logger.info(line)
        elif time.monotonic() - self._updated >= EVERY or step.done == step.total:
            self._updated = time.monotonic()
            self.logger.info(line)
            self._publish(step)

    def _publish(self, step: Step) -> None:
        try:
            if self._artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
                made = create_progress_artifact(step.percent, key=key, description=f"{self.name} {step.text}")
                assert isinstance(made, UUID)
                self._artifact = made
            else:
                update_progress_artifact(self._artifact, step.percent, f"{self.name} {step.text}")
        except httpx.HTTPError as error:
            # A training of hours must not end because a picture of its progress could not be drawn.
            self.logger.warning("progress was not shown on the server: %s", error)
