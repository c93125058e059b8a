"""The audit's own arithmetic: the gates' absolute checks made again from the metrics that DVC vouches for.

A training job may write its run's files and its staging version's tags, the gate table and the digest of it among
them. It cannot write numbers that follow from other bytes: the md5 of evaluate's output is in the snapshot's dvc.lock.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from flows import fixity, gates, judge, lineage
from flows.adapters import served
from flows.fixity import Objects
from flows.gates import Check, GateTable, Limits
from flows.lineage import State
from flows.trail import DIFFERS, VERIFIED, Link

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

GATES = "mlflow/gates.yaml"
TIMED = "seconds_per_image"  # measured anew, both bundles in turns, whenever there is a champion
SIGNS = {" >=": "minimum", " <=": "maximum"}  # how an absolute check's name ends


def links(root: Path, found: ModelVersion, state: State, table: GateTable) -> Iterator[Link]:
    """One link, where metrics.json is at hand with the bytes that dvc.lock records and was what the gates read."""
    metrics = _metrics(root, state)
    if metrics is None or not table.checks or found.tags.get("gates.basis") == judge.BOTH_ANEW:
        return
    known = _limits(root, found, state.category, str(metrics.get("evaluated_on", "test")))
    asked = known or _limits_in(table)
    made = gates.evaluate_gates(metrics, None, Limits(asked.minimum, asked.maximum)).checks
    mine, theirs = _absolute(made), _absolute(table.checks)
    names = [n for n in mine.keys() | theirs.keys() if not _same(mine.get(n), theirs.get(n))]
    whose = "limits of gates.yaml" if known else "limits as in the table: gates.yaml has moved on"
    told = "; ".join(f"{n}: {_words(mine.get(n))}, the table has {_words(theirs.get(n))}" for n in sorted(names))
    status = DIFFERS if names else VERIFIED
    detail = told or f"from metrics.json as dvc.lock records it, {whose}"
    yield Link("gate checks", f"{len(mine)} checks", f"{len(names)} not as in the table", status, detail)


def _metrics(root: Path, state: State) -> dict[str, Any] | None:
    md5 = state.outs.get("evaluate", "")
    folder = root / "artifacts" / state.category / "evaluate"
    path: Path | None = folder / "metrics.json"
    if fixity.listing_md5(fixity.listing(folder)) != md5:
        objects = Objects.of(root)
        name = (objects.listing(md5) or {}).get("metrics.json", "") if md5 else ""
        place = objects.find(name) if name else None
        path = place[1] if place and fixity.file_hash(place[1]) == name else None
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path and path.is_file() else None


def _limits(root: Path, found: ModelVersion, category: str, evaluated_on: str) -> Limits | None:
    """The limits that the version was judged by, where the present gates.yaml or the snapshot's has them still."""
    with tempfile.TemporaryDirectory() as folder:
        past = Path(folder) / "gates.yaml"
        past.write_text(lineage.committed(root, found.tags.get("snapshot.sha", ""), GATES) or "", encoding="utf-8")
        for path in (served.project_file(root, GATES), past):
            with contextlib.suppress(UserError):  # one that cannot be read has no limits; the other may
                limits = gates.load_limits(path, category, evaluated_on)
                if limits.digest == found.tags.get("gates.limits"):
                    return limits
    return None


def _limits_in(table: GateTable) -> Limits:
    kinds: dict[str, dict[str, float]] = {"minimum": {}, "maximum": {}}
    for check in table.checks:
        metric, sign = check.name[:-3], check.name[-3:]
        if sign in SIGNS and check.limit is not None:
            kinds[SIGNS[sign]][metric] = check.limit
    return Limits(**kinds)


def _absolute(checks: Iterable[Check]) -> dict[str, Check]:
    return {c.name: c for c in checks if c.name[-3:] in SIGNS and c.name[:-3] != TIMED}


def _same(one: Check | None, other: Check | None) -> bool:
    if one is None or other is None:
        return False
    return (one.value, one.limit, one.verdict) == (other.value, other.limit, other.verdict)


def _words(check: Check | None) -> str:
    return "no such check" if check is None else f"{check.value} against {check.limit}, {check.verdict}"
