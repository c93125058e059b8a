"""Two machines that promote one category at once: one wins, the other says so.

A lock file holds on one machine only, and MLflow has no transaction that spans its calls. What both machines share
is the record: each writes its intent down first and then looks for the other's. Whoever sees nobody goes ahead, so
the other, who wrote later, must see it. If each sees the other, the earlier intent waits for the later to step back.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from flows import record
from flows.adapters import registry
from flows.record import ContestedError, Intent

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 60.0  # seconds until the later one has stepped back; it needs a moment
LOOK = 0.2  # seconds between two looks


def win(client: MlflowClient, intent: Intent) -> None:
    """Return when no other promotion or rollback of the category is under way and the champion is still the same.

    Otherwise close the intent as failed and raise ContestedError, having changed nothing else.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        rivals = [each for each, _ in record.pending(client, Path(), intent.category) if each.record != intent.record]
        earlier = [each for each in rivals if (each.when, each.record) < (intent.when, intent.record)]
        if earlier or (rivals and time.monotonic() > deadline):
            _yield(client, intent, f"another {rivals[0].kind} is under way on {rivals[0].host}")
        if not rivals:
            break
        time.sleep(LOOK)
    serving = registry.aliased(client, registry.production(intent.category), registry.CHAMPION)
    if serving != intent.from_version:
        _yield(client, intent, f"version {serving or 'none'} serves since")


def _yield(client: MlflowClient, intent: Intent, reason: str) -> None:
    record.close(client, intent, intent.from_version, error=reason)
    told = f"the {intent.kind} of '{intent.category}' was not made: {reason}"
    raise ContestedError(f"{told}; see `kintsugi history {intent.category}` and decide again")
