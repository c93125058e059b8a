"""The plant's flows, as Prefect deploys them: watch, ingest-and-retrain, promote and drift.

Each takes its workspace as a parameter; the work is done by modules that know nothing of Prefect.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import flows.environment  # noqa: F401  sets the defaults that Prefect reads when it is imported

# isort: split
from prefect import Task, flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.states import Completed

from flows import environment
from flows.ingest import IngestReport
from flows.ingest.files import PassingError

LANDED, DRIFTED = "kintsugi.images.landed", "kintsugi.drift"
# Seconds before each further try of an ingest: a busy lock takes moments, a bucket's outage minutes.
RETRY_DELAYS = [10.0, 60.0, 300.0, 900.0]


def resource(category: str) -> str:
    """The name by which events and triggers know a category."""
    return f"kintsugi.category.{category}"


@flow(name="watch")
def watch(root: str, category: str) -> Any:
    """Look at the landing place; when enough waits, emit one event that names what does."""
    from flows import watch as watching

    sight = watching.look(Path(root), category)
    if not sight.due:
        return Completed(name="Quiet", message=sight.reason)
    _emit(LANDED, category, {"digest": sight.digest, "images": sight.images, "reason": sight.reason})
    # After the event and not before: a crash between the two announces twice, which ingest does not mind.
    watching.announced(Path(root), category, sight.digest)
    return Completed(name="Announced", message=sight.reason)


@flow(name="ingest-and-retrain")
def ingest_and_retrain(root: str, category: str, digest: str = "") -> Any:
    """Take in what waits, then bring the category up to date; ends as the retraining does.

    `digest` names the landing that started it; it is on record only, as by now more may have landed.
    The retraining follows even when nothing was accepted: an earlier one may have been cut off, and
    what is unchanged is skipped.
    """
    from flows import retrain

    workspace = Path(root)
    environment.prepare(workspace)
    report = _ingest_task(workspace, category)()
    get_run_logger().info("landing %s: %s", digest or "by hand", _summary(report))
    token = retrain.SESSION.set(retrain.Session(workspace))
    try:
        state = cast("State[Any]", retrain.retrain([category], return_state=True))
    finally:
        retrain.SESSION.reset(token)
    return state if not state.is_completed() else Completed(message=f"{_summary(report)}; {state.message}")


def _ingest_task(root: Path, category: str) -> Task[[], IngestReport]:
    """The ingest as a task: what can pass is tried again, what cannot is not."""
    failure: list[BaseException] = []

    def ingest() -> IngestReport:
        from flows.ingest import ingest as take_in

        try:
            return take_in(root, category)
        except Exception as error:
            failure.append(error)
            raise

    passes: Callable[..., bool] = lambda task, run, state: isinstance(failure[-1], PassingError | OSError)  # noqa: E731
    return Task(
        fn=ingest, name="ingest", task_run_name=f"ingest@{category}", tags=[category], retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS, retry_condition_fn=passes, cache_policy=NO_CACHE, persist_result=False,
    )  # fmt: skip


def _summary(report: IngestReport) -> str:
    parts = {"accepted": report.accepted, "held": report.held, "quarantined": report.quarantined}
    return ", ".join(f"{len(fates)} {name}" for name, fates in (parts | {"known": report.duplicates}).items())


@flow(name="promote")
def promote(
    root: str,
    category: str,
    approver: str,
    reason: str,
    decision: Literal["approve", "refuse", "rollback"] = "approve",
    version: str = "",
) -> Any:
    """Decide about a version in staging, or take the serving one back; goes on the record.

    Args:
        root: The workspace's folder.
        category: Which category's model.
        approver: Who decides: the name that goes on the record.
        reason: Why: the reason that goes on the record.
        decision: approve lets a staging version serve, refuse turns it down, rollback lets the version before
            serve again.
        version: Which staging version is approved or refused; the newest if left empty.
    """
    from components import settings
    from flows import promote as promotion

    workspace = Path(root)
    environment.prepare(workspace)
    settings.load(workspace, category)  # refuses an unknown category, offering the nearest
    tell = get_run_logger().info
    if decision == "refuse":
        promotion.refuse(workspace, category, approver, reason, version or None, tell=tell)
        return Completed(name="Refused", message=f"turned down by {approver}: {reason}")
    if decision == "approve":
        serving = promotion.promote(workspace, category, approver, reason, version or None, tell=tell)
    else:
        serving = promotion.rollback(workspace, category, approver, reason, tell=tell)
    return Completed(message=f"production.{category}@champion is version {serving}, by {approver}: {reason}")


@flow(name="drift")
def drift(root: str, category: str) -> Any:
    """Compare scores and likelihoods of late with the calibration's, and emit an event that names which parted."""
    from flows import drift as drifting
    from flows.adapters import registry, tracking

    environment.prepare(Path(root))
    client = tracking.connect(Path(root))
    if not any(registry.versions(client, name(category)) for name in (registry.production, registry.staging)):
        return Completed(name="Quiet", message=f"'{category}' has no model yet")
    report = drifting.drift(Path(root), category)
    if report.parted:
        _emit(DRIFTED, category, report.payload)
    return Completed(name="Drifted" if report.parted else "Quiet", message=str(report))


def _emit(event: str, category: str, payload: dict[str, Any]) -> None:
    emit_event(event, resource={"prefect.resource.id": resource(category)}, payload=payload)
    EventsWorker.drain_all(timeout=10)  # this process may end before the queue is sent
