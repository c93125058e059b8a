"""The promotion record: one run per promotion and rollback (experiment `promotions`) and refusal (`refusals`).

A promotion takes several steps in MLflow, which has no transaction across them. The record is also the
journal that makes one of them: it is written as `pending` before the first step and closed after the last,
so whoever comes next sees what was under way when a process died.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from flows.adapters import alive, tracking
from flows.adapters.registry import retried

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

EXPERIMENT = "promotions"
# Apart from what people decided: a team's training jobs write refusals, and must not be able to write the other.
REFUSALS = "refusals"
COLUMNS = (
    "when", "kind", "status", "from_version", "to_version", "staging_version", "run_id", "data_md5",
    "gate_digest", "judged", "by", "why", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Intent:
    """What one promotion, refusal or rollback is about to do; every value is a text, empty for none."""

    category: str
    kind: str  # promotion | rollback | refusal
    staging_version: str  # the version concerned, in staging.<category>
    identity: str  # its lineage identity, which also names its copy in production.<category>
    from_version: str  # production version that served before
    previous_before: str  # production version that carried `previous` before
    newest_before: str  # highest production version before, so that a half-made copy is known as such
    mark_before: str  # the staging version's `promotion` tag before
    run_id: str
    data_md5: str
    gate_digest: str
    judged: str  # against what the gates judged it, or that they judged it before and not for this decision
    by: str
    why: str
    when: str  # ISO 8601, UTC
    host: str
    process: str = ""  # that carries it out, see flows/adapters/alive.py
    record: str = ""  # id of the run that holds it


class ContestedError(UserError):
    """Someone else is deciding about the category, or has settled this decision; it may be made again later."""


_OWN: set[str] = set()  # records that this very process is carrying out


def now() -> str:
    """The present moment, ISO 8601 in UTC to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def next_moment(client: MlflowClient, category: str) -> str:
    """The present moment, or just after the last on the record where the clock has been moved back since."""
    last = max((run.data.tags.get("when", "") for run in _runs(client, category)), default="")
    moment = now()
    if moment > last:
        return moment
    return (datetime.fromisoformat(last) + timedelta(milliseconds=1)).isoformat(timespec="milliseconds")


def host() -> str:
    """Name of this machine, which tells whether a pending intent can belong to a live process here."""
    return socket.gethostname()


def gone(intent: Intent) -> bool:
    """Whether nobody can be carrying the intent out any more; False where this machine cannot know.

    The lock of this checkout says nothing about another checkout on the same machine.
    """
    if intent.host != host() or intent.record in _OWN:
        return False
    return intent.process == alive.this() or alive.gone(intent.process)


@contextmanager
def exclusive(root: Path, category: str, wait: float, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the category's promotion lock, waiting up to `wait` seconds; ContestedError when another holds it.

    `waits` is called once when the waiting begins. The operating system frees the lock when its holder dies, so
    none is ever left behind.
    """
    from filelock import FileLock, Timeout

    folder = root / ".kintsugi"
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / f"promotion-{category}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waits()
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise ContestedError(
                f"a publication or decision of '{category}' is still under way after {wait:g} s; "
                "try again when it is done"
            ) from None
    try:
        yield
    finally:
        lock.release()


@retried
def open_(client: MlflowClient, root: Path, intent: Intent, status: str = "pending", error: str = "") -> Intent:
    """Write the intent down, in one database transaction, and return it with the record's id."""
    values = {k: v for k, v in asdict(intent).items() if k != "record"} | {"process": alive.this()}
    tags = {**values, "status": status, "to_version": "", "error": error, "pid": str(os.getpid())}
    name = f"{intent.kind} {intent.category} staging {intent.staging_version}"
    experiment = tracking.experiment(client, root, REFUSALS if intent.kind == "refusal" else EXPERIMENT)
    run = client.create_run(experiment, tags={**tags, "mlflow.user": intent.by}, run_name=name)
    if status != "pending":
        client.set_terminated(run.info.run_id)
    else:
        _OWN.add(run.info.run_id)
    return Intent(**values, record=run.info.run_id)


@retried
def require(client: MlflowClient, intent: Intent, *among: str) -> None:
    """Raise ContestedError unless the record still has the status `pending`, or one of `among`."""
    status = client.get_run(intent.record).data.tags.get("status", "")
    if status not in (among or ("pending",)):
        told = f"the {intent.kind} of '{intent.category}' was settled as {status} by another command meanwhile"
        raise ContestedError(f"{told}; see `kintsugi history {intent.category}` and decide again")


@retried
def mark(client: MlflowClient, intent: Intent, status: str) -> None:
    """Change the record's status alone (`undoing`: it must not be finished any more)."""
    client.set_tag(intent.record, "status", status)


def close(client: MlflowClient, intent: Intent, to_version: str, error: str = "") -> None:
    """Close the record: `done` with the version that serves now, or `failed` with the reason.

    Raises ContestedError for one that is closed already, or, where it would be `done`, is being undone.
    """
    require(client, intent, *(("pending", "undoing") if error else ()))
    _close(client, intent, to_version, error)
    leave(intent)


def leave(intent: Intent) -> None:
    """Note that this process does no more about the intent: who finds it open may settle it."""
    _OWN.discard(intent.record)


@retried
def _close(client: MlflowClient, intent: Intent, to_version: str, error: str) -> None:
    from mlflow.entities import RunTag

    status = "failed" if error else "done"
    tags = {"to_version": to_version, "error": error[:4000], "finished": now(), "status": status}
    client.log_batch(intent.record, tags=[RunTag(k, v) for k, v in tags.items()])
    client.set_terminated(intent.record, "FAILED" if error else "FINISHED")


def pending(client: MlflowClient, root: Path, category: str) -> list[tuple[Intent, str]]:
    """Intents of the category that no one closed, oldest first, each with its status."""
    runs = _runs(client, category)
    open_runs = [run for run in runs if run.data.tags.get("status") in ("pending", "undoing")]
    return [(_intent(run), run.data.tags["status"]) for run in reversed(open_runs)]


def history(client: MlflowClient, root: Path, category: str) -> pd.DataFrame:
    """Every promotion, refusal and rollback of the category, oldest first; columns COLUMNS and `record`."""
    import pandas as pd

    runs = reversed(_runs(client, category))
    rows = [{**{c: run.data.tags.get(c, "") for c in COLUMNS}, "record": run.info.run_id} for run in runs]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "record"], dtype=str)
    return table.sort_values("when", kind="stable", ignore_index=True)


def served(table: pd.DataFrame) -> list[dict[str, str]]:
    """What served when, from a history: rows of version, since, until (empty: still), by, why."""
    moves = table[(table["status"] == "done") & (table["kind"] != "refusal")]
    rows: list[dict[str, str]] = [
        {"version": str(r["to_version"]), "since": str(r["when"]), "until": ""}
        | {key: str(r[key]) for key in ("kind", "by", "why")}
        for r in moves.to_dict("records")
    ]
    for earlier, later in pairwise(rows):
        earlier["until"] = later["since"]
    return rows


def signed(table: pd.DataFrame, version: str) -> dict[str, str]:
    """The promotion by which a production version came to serve, the last if several, from a history; {} for none."""
    own = table[(table["status"] == "done") & (table["kind"] == "promotion") & (table["to_version"] == version)]
    return {str(k): str(v) for k, v in own.iloc[-1].items()} if len(own) else {}


@retried
def _runs(client: MlflowClient, category: str) -> list[Any]:
    found = [client.get_experiment_by_name(name) for name in (EXPERIMENT, REFUSALS)]
    where = f"tags.category = '{category}'"
    runs = [run for each in found if each for run in tracking.search_runs(client, str(each.experiment_id), where)]
    return sorted(runs, key=lambda run: int(run.info.start_time), reverse=True)


def _intent(run: Any) -> Intent:
    tags = run.data.tags
    values = {f.name: tags.get(f.name, "") for f in fields(Intent) if f.name != "record"}
    return Intent(**values, record=run.info.run_id)
