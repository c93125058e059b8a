"""The steps of a promotion or rollback, as one transaction over MLflow, which has none.

Each may be repeated without harm:

    record the intent → copy to production → `previous` to the old champion → `champion` to the new
    → mark the versions → close the record

The commit point is the champion alias, the one thing that servers look at. A step that fails undoes the
ones before it. A process that dies leaves a pending intent, and the next call for the category settles
it: finished when the champion alias had moved, undone otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import UserError
from flows import contest, record
from flows.adapters import registry
from flows.adapters.registry import CHAMPION, PREVIOUS
from flows.record import ContestedError, Intent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)
# An intent whose process may live, on another machine or in another checkout, is left alone for this long.
FOREIGN_PATIENCE = timedelta(minutes=10)


def repair(client: MlflowClient, root: Path, category: str) -> list[str]:
    """Settle what a dead process left pending; the caller holds the lock. Returns what was done, in words.

    ContestedError while an intent is under way, as far as anyone can tell from here.
    """
    settled = []
    for intent, status in record.pending(client, root, category):
        age = datetime.now(UTC) - datetime.fromisoformat(intent.when)
        if not record.gone(intent) and age < FOREIGN_PATIENCE:
            raise ContestedError(f"a {intent.kind} of '{category}' is under way on {intent.host}; try again later")
        name = registry.production(category)
        target = registry.by_identity(client, name, intent.identity)
        serving = registry.aliased(client, name, CHAMPION)
        if status == "pending" and target is not None and str(target.version) == serving:
            _settle(client, intent, serving)
            settled.append(f"finished the {intent.kind} of {intent.when}")
        else:
            record.mark(client, intent, "undoing")  # should its process live after all, it moves no alias from here on
            _undo(client, intent, "interrupted before the champion alias moved")
            settled.append(f"undid the {intent.kind} of {intent.when}")
    for words in settled:
        log.warning("%s: %s", category, words)
    return settled


def transact(client: MlflowClient, intent: Intent) -> str:
    """Carry out an intent that is on the record; returns the production version that serves now."""
    try:
        contest.win(client, intent)
        return _carried_out(client, intent)
    finally:
        record.leave(intent)


def _carried_out(client: MlflowClient, intent: Intent) -> str:
    what, closed = f"the {intent.kind} of '{intent.category}'", False
    try:
        target = _move(client, intent)
        _settle(client, intent, target)
        closed = True
        reached("closed")
    except ContestedError:
        raise  # who settled it has put everything right; undoing would take back what was decided since
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        try:
            if not closed:
                record.require(client, intent)
            record.mark(client, intent, "undoing")
            _undo(client, intent, reason)
        except ContestedError:
            raise
        except Exception as worse:
            told = f"{what} stopped half way ({reason}) and could not be undone ({worse})"
            raise UserError(f"{told}; the next kintsugi command for it will settle it") from error
        raise UserError(f"{what} failed and was undone: {reason}; try again") from error
    return target


def _move(client: MlflowClient, intent: Intent) -> str:
    name = registry.production(intent.category)
    reached("recorded")
    copied = registry.by_identity(client, name, intent.identity)
    record.require(client, intent)
    if copied is None:  # a version promoted before keeps its number, so nothing is ever doubled
        copied = registry.copy(client, _original(client, intent), name)
    elif copied.tags.get("gates.digest", "") != intent.gate_digest:  # it never came to serve; judged anew since
        tags = _original(client, intent).tags
        registry.tag(client, name, str(copied.version), {k: v for k, v in tags.items() if k.startswith("gates.")})
    reached("copied")
    record.require(client, intent)
    if intent.from_version:
        registry.point(client, name, PREVIOUS, intent.from_version)
    reached("previous moved")
    record.require(client, intent)
    registry.point(client, name, CHAMPION, str(copied.version))
    reached("champion moved")
    return str(copied.version)


def _original(client: MlflowClient, intent: Intent) -> ModelVersion:
    found = registry.get(client, registry.staging(intent.category), intent.staging_version)
    if found is None:
        raise UserError(f"staging.{intent.category} version {intent.staging_version} is gone")
    return found


def _settle(client: MlflowClient, intent: Intent, target: str) -> None:
    name, staged_name = registry.production(intent.category), registry.staging(intent.category)
    mark = {"promotion": "promoted", "production.version": target}
    registry.tag(client, staged_name, intent.staging_version, mark)
    # Whoever rolls back to a version has not approved it: its approval stays that of its promotion.
    approval = _approval(asdict(intent)) if intent.kind == "promotion" else {}
    registry.tag(client, name, target, {**mark, **approval})
    if intent.kind == "rollback":
        left = registry.get(client, name, intent.from_version)
        if left is not None:
            registry.tag(client, name, intent.from_version, {"promotion": "rolled back"})
            registry.tag(client, staged_name, registry.origin(left), {"promotion": "rolled back"})
    reached("marked")
    record.close(client, intent, target)


def _undo(client: MlflowClient, intent: Intent, reason: str) -> None:
    """Put aliases and marks back as the intent found them, and take away a copy that it made."""
    name, staged_name = registry.production(intent.category), registry.staging(intent.category)
    registry.point(client, name, CHAMPION, intent.from_version)
    registry.point(client, name, PREVIOUS, intent.previous_before)
    copied = registry.by_identity(client, name, intent.identity)
    if copied is not None and int(copied.version) > int(intent.newest_before or 0):
        registry.delete(client, name, str(copied.version))
    elif copied is not None and intent.kind == "promotion":
        signed = record.signed(record.history(client, Path(), intent.category), str(copied.version))
        registry.tag(client, name, str(copied.version), _approval(signed) if signed else {})
    registry.tag(client, staged_name, intent.staging_version, {"promotion": intent.mark_before})
    if intent.kind == "rollback" and (left := registry.get(client, name, intent.from_version)) is not None:
        registry.tag(client, name, intent.from_version, {"promotion": "promoted"})
        registry.tag(client, staged_name, registry.origin(left), {"promotion": "promoted"})
    record.close(client, intent, intent.from_version, error=reason)


def _approval(signed: Mapping[str, str]) -> dict[str, str]:
    return {f"promoted.{key}": signed[key] for key in ("by", "why", "when")}


def reached(step: str) -> None:
    """Note that a step is done."""
    log.debug("promotion step: %s", step)
