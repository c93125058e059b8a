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
from flows import judge, record, transaction, turn
from flows.adapters import registry, tracking
from flows.adapters.registry import CHAMPION, PREVIOUS
from flows.gates import GateTable
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
    flows/turn.py); the newest is then the one that was so before. A judgement that no longer stands is made anew
    first. Raises UserError, and records the refusal, for a version whose gates failed; UserError also for one that
    serves already, does not exist, or cannot be judged anew from this workspace, and for a newest one that a person
    turned down or took back: only who names it means to overturn that.
    """
    with _turn(root, category, by, why, tell) as (client, newest):
        candidate = staged(client, category, version or newest)
        _serves_not(client, category, candidate)
        if version is None:
            _is_open(client, category, candidate)
        if (copied := _served_as(client, root, category, candidate)) is not None:
            return _bring_back(client, root, category, candidate, copied, by, why)
        table = _judged(client, root, candidate, tell)
        candidate = staged(client, category, str(candidate.version))  # with the tags of its judgement
        if not table.passed:
            names = ", ".join(c.name for c in table.failed) or "no check was made"
            told = f"staging.{category} version {candidate.version} failed its gates ({names})"
            record_refusal(client, root, category, candidate, by, why, told)
            if candidate.tags.get("promotion") == "waiting":
                registry.tag(client, candidate.name, str(candidate.version), {"promotion": "refused"})
            others = _others(client, category, str(candidate.version))
            raise UserError(f"{told}; it stays in staging, train a better one with `kintsugi run {category}`{others}")
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
        intent = _intent(client, category, "rollback", target, registry.origin(target), by, why, again=True)
        return transaction.transact(client, record.open_(client, root, intent))


def refuse(root: Path, category: str, by: str, why: str, version: str | None = None, tell: Tell = log.warning) -> str:
    """Record that a person turned a staging version (default: the newest, if it waits) down; returns its number.

    Waits as `promote` does. UserError for a version that serves, and for a newest one that waits for nobody.
    """
    with _turn(root, category, by, why, tell) as (client, newest):
        candidate = staged(client, category, version or newest)
        number, mark = str(candidate.version), candidate.tags.get("promotion", "")
        told = f"staging.{category} version {number}"
        if mark == "promoted":
            raise UserError(f"{told} serves already; use rollback{_others(client, category, number)}")
        if version is None and mark != "waiting":
            fate = mark or "not judged yet"
            raise UserError(f"{told} waits for no decision ({fate}){_others(client, category, number)}")
        record_refusal(client, root, category, candidate, by, why, "turned down")
        registry.tag(client, candidate.name, number, {"promotion": "turned down"})
        return number


def _is_open(client: MlflowClient, category: str, candidate: ModelVersion) -> None:
    number, mark = str(candidate.version), candidate.tags.get("promotion", "")
    if mark in ("turned down", "rolled back"):
        told, others = f"staging.{category} version {number} was {mark}", _others(client, category, number)
        raise UserError(f"{told}; to let it serve all the same, name it with --version {number}{others}")


def _others(client: MlflowClient, category: str, number: str) -> str:
    """The end of a message about one version: which other ones wait."""
    others = [each for each in registry.waiting(client, category) if each != number]
    return f"; waiting: {', '.join(others)}, to be named with --version" if others else ""


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
    _serves_not(client, category, candidate)
    intent = _intent(client, category, "promotion", candidate, str(candidate.version), by, why)
    return transaction.transact(client, record.open_(client, root, intent))


def _serves_not(client: MlflowClient, category: str, candidate: ModelVersion) -> None:
    name = registry.production(category)
    champion = registry.get(client, name, registry.aliased(client, name, CHAMPION) or "0")
    if champion is not None and champion.tags.get("identity") == candidate.tags["identity"]:
        told = f"staging.{category} version {candidate.version} serves already"
        raise UserError(f"{told}, as {name} version {champion.version}; there is nothing to promote")


def _served_as(client: MlflowClient, root: Path, category: str, candidate: ModelVersion) -> ModelVersion | None:
    """The production version that this one served as, by the record: a copy alone may be of a promotion undone."""
    copied = registry.by_identity(client, registry.production(category), candidate.tags["identity"])
    if copied is None:
        return None
    return copied if record.signed(record.history(client, root, category), str(copied.version)) else None


def _judged(client: MlflowClient, root: Path, candidate: ModelVersion, tell: Tell) -> GateTable:
    """The gate table by which the version may serve now: the recorded one while it stands, else a new one."""
    from mlflow.exceptions import MlflowException

    standing = judge.standing(client, root, candidate)
    if standing is not None:
        return standing
    name = f"{candidate.name} version {candidate.version}"
    tell(f"the judgement of {name} is not of the present champion and limits, or not whole; judging it anew")
    try:
        return judge.judge(client, root, candidate).table
    except (UserError, OSError, ValueError, MlflowException) as error:
        reason = " ".join(str(error).split())
        category = candidate.tags["category"]
        raise UserError(
            f"{name} was judged by another champion or other limits and cannot be judged anew here ({reason}); promote "
            f"it from the workspace that trains '{category}', as someone who may write its runs"
        ) from error


def _bring_back(
    client: MlflowClient, root: Path, category: str, candidate: ModelVersion, copied: ModelVersion, by: str, why: str
) -> str:
    """Let a version serve that has served: an emergency door, so by the judgement it had then, on the record as such.

    What a training job may write does not count here: the copy's own tags say what it was judged by.
    """
    if not judge.whole(copied):
        told = f"the gate table of {copied.name} version {copied.version} is not the one it was promoted by"
        raise UserError(f"{told}; see `kintsugi audit {category} --version {copied.version}`")
    intent = _intent(client, category, "promotion", copied, str(candidate.version), by, why, again=True)
    return transaction.transact(client, record.open_(client, root, intent))


def record_refusal(
    client: MlflowClient, root: Path, category: str, candidate: ModelVersion, by: str, why: str, error: str
) -> None:
    """Append a refusal to the record."""
    intent = _intent(client, category, "refusal", candidate, str(candidate.version), by, why)
    record.open_(client, root, intent, status="done", error=error)


def _intent(
    client: MlflowClient,
    category: str,
    kind: str,
    version: ModelVersion,
    staging: str,
    by: str,
    why: str,
    again: bool = False,
) -> Intent:
    name = registry.production(category)
    existing = registry.versions(client, name)
    tags: Mapping[str, str] = version.tags
    original = registry.get(client, registry.staging(category), staging)
    rival = tags.get("gates.champion", "")
    judged = "before, when it first served" if again else f"beside version {rival}" if rival else "without a champion"
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
        judged=judged,
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
