"""Promotion, refusal and rollback: a person's or the gates' decision about which version serves.

Each is carried out as one transaction, see flows/transaction.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import UserError
from flows import record, transaction, turn
from flows.adapters import registry, tracking
from flows.adapters.registry import CHAMPION, PREVIOUS
from flows.record import Intent

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)
Tell = Callable[[str], None]


def promote(root: Path, category: str, by: str, why: str, version: str | None = None, tell: Tell = log.warning) -> str:
    """Let a staging version (default: the newest) serve; returns its number in production.<category>.

    Waits, with a line to `tell`, while a publication or another decision of the category is under way (see
    flows/turn.py); the newest is then the one that was so before. Raises UserError, and records the refusal,
    for a version whose gates failed; UserError also for one that serves already or does not exist.
    """
    with _turn(root, category, by, why, tell) as (client, newest):
        candidate = staged(client, category, version or newest)
        verdict = candidate.tags.get("gates.verdict")
        if verdict != "pass":
            told = f"staging.{category} version {candidate.version} " + (
                f"failed its gates ({candidate.tags.get('gates.failed')})"
                if verdict == "fail"
                else "has not been through the gates"
            )
            record_refusal(client, root, category, candidate, by, why, told)
            raise UserError(f"{told}; it stays in staging, train a better one with `kintsugi run {category}`")
        return carry_out(client, root, category, candidate, by, why)


def rollback(root: Path, category: str, by: str, why: str, tell: Tell = log.warning) -> str:
    """Let the version before (alias `previous`) serve again; returns its number in production.<category>.

    The version rolled back from becomes `previous`. Waits as `promote` does. Raises UserError when there is
    none before.
    """
    with _turn(root, category, by, why, tell) as (client, _):
        name = registry.production(category)
        target = registry.get(client, name, registry.aliased(client, name, PREVIOUS) or "0")
        if target is None:
            raise UserError(f"{name} has no version before the champion; there is nothing to roll back to")
        intent = _intent(client, category, "rollback", target, registry.origin(target), by, why)
        return transaction.transact(client, record.open_(client, root, intent))


def refuse(root: Path, category: str, by: str, why: str, version: str | None = None, tell: Tell = log.warning) -> None:
    """Record that a person turned a waiting staging version (default: the newest) down; waits as `promote` does."""
    with _turn(root, category, by, why, tell) as (client, newest):
        candidate = staged(client, category, version or newest)
        if candidate.tags.get("promotion") == "promoted":
            raise UserError(f"staging.{category} version {candidate.version} serves already; use rollback")
        record_refusal(client, root, category, candidate, by, why, "turned down")
        registry.tag(client, candidate.name, str(candidate.version), {"promotion": "turned down"})


def history(root: Path, category: str) -> pd.DataFrame:
    """Every promotion, refusal and rollback of the category, oldest first."""
    return record.history(tracking.connect(root), root, category)


def staged(client: MlflowClient, category: str, version: str | None) -> ModelVersion:
    """A staging version, the newest by default; UserError when there is none."""
    name = registry.staging(category)
    found = registry.versions(client, name)
    if not found:
        raise UserError(f"{name} has no version yet; do `kintsugi run {category}` first")
    if version is None:
        return found[0]
    chosen = next((v for v in found if str(v.version) == str(version)), None)
    if chosen is None:
        known = ", ".join(str(v.version) for v in reversed(found))
        raise UserError(f"{name} has no version {version}; there are {known}")
    return chosen


def carry_out(client: MlflowClient, root: Path, category: str, candidate: ModelVersion, by: str, why: str) -> str:
    """Promote a version that passed; the caller holds the lock and has repaired. Returns its new number."""
    name = registry.production(category)
    champion = registry.get(client, name, registry.aliased(client, name, CHAMPION) or "0")
    if champion is not None and champion.tags.get("identity") == candidate.tags["identity"]:
        told = f"staging.{category} version {candidate.version} serves already"
        raise UserError(f"{told}, as {name} version {champion.version}; there is nothing to promote")
    intent = _intent(client, category, "promotion", candidate, str(candidate.version), by, why)
    return transaction.transact(client, record.open_(client, root, intent))


def record_refusal(
    client: MlflowClient, root: Path, category: str, candidate: ModelVersion, by: str, why: str, error: str
) -> None:
    """Append a refusal to the record."""
    intent = _intent(client, category, "refusal", candidate, str(candidate.version), by, why)
    record.open_(client, root, intent, status="done", error=error)


def _intent(
    client: MlflowClient, category: str, kind: str, version: ModelVersion, staging: str, by: str, why: str
) -> Intent:
    name = registry.production(category)
    existing = registry.versions(client, name)
    tags: Mapping[str, str] = version.tags
    original = registry.get(client, registry.staging(category), staging)
    return Intent(
        category=category,
        kind=kind,
        staging_version=staging,
        identity=tags["identity"],
        from_version=registry.aliased(client, name, CHAMPION),
        previous_before=registry.aliased(client, name, PREVIOUS),
        newest_before=str(existing[0].version) if existing else "",
        mark_before=original.tags.get("promotion", "") if original else "",
        run_id=str(version.run_id),
        data_md5=tags.get("data.md5", ""),
        gate_digest=tags.get("gates.digest", ""),
        by=by,
        why=why,
        when=record.next_moment(client, category),
        host=record.host(),
    )


@contextmanager
def _turn(root: Path, category: str, by: str, why: str, tell: Tell) -> Iterator[tuple[MlflowClient, str | None]]:
    """A signed decision's turn: nothing else of the category is under way, and nothing is half done."""
    if not by.strip() or not why.strip():
        raise UserError("a promotion is signed: say who decides (--by) and why (--why)")
    with turn.taken(root, category, tell) as (client, seen):
        transaction.repair(client, root, category)
        if seen is not None:
            seen.still_holds(client)
        yield client, seen.newest if seen is not None else None
