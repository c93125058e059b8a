"""The retraining flow: dvc.yaml's graph compiled to Prefect tasks, one for each stage of each category."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flows.environment  # noqa: F401  sets the defaults that Prefect reads when it is imported

# isort: split
from prefect import Task, flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from components.settings import find_root
from flows import latent
from flows.adapters import versioning
from flows.adapters.process import Cancellation, StoppedError
from flows.adapters.versioning import LockBusyError, StageError
from flows.graph import StageNode
from flows.ingest.journal import standing_still
from flows.outcome import CategoryOutcome, StageOutcome, StageState, remember
from flows.plan import Plan, make_plan
from flows.progress import Reporter
from flows.slots import GPU, ensure_slots
from flows.telling import Teller

RETRY_DELAYS = [2.0, 10.0]  # seconds before the second and the third try
# The same for publishing: databases and stores come back, and a decision that another machine left half made is
# settled ten minutes after it began (flows/transaction.py). Hours of training hang on it.
PUBLISH_DELAYS = [5.0, 15.0, 30.0, 60.0, 120.0, 400.0]
UNCHANGED = "unchanged: its inputs, settings and outputs are those of dvc.lock"
USER_ERROR = 2  # a stage's exit code when its input is at fault, see components/__main__.py


@dataclass
class Session:
    """One run's shared state: where, how it is shown and stopped, and what has come out so far."""

    root: Path
    reporter: Reporter = field(default_factory=Reporter)
    cancellation: Cancellation = field(default_factory=Cancellation)
    owned_server: bool = False  # nobody else uses this Prefect server: slots still taken are a dead run's
    plan: Plan | None = None
    outcomes: dict[str, StageOutcome] = field(default_factory=dict)
    publications: dict[str, Any] = field(default_factory=dict)

    def record(self, name: str, state: StageState, started: float, reason: str) -> StageOutcome:
        """Keep and show how the stage `name` ended."""
        stage, _, category = name.partition("@")
        outcome = StageOutcome(stage, category, state, round(time.monotonic() - started, 2), reason)
        self.outcomes[name] = outcome
        self.reporter.end(outcome)
        return outcome

    def results(self, categories: Sequence[str]) -> list[CategoryOutcome]:
        """Return one outcome per category; what never started is `not run`, after what failed."""
        assert self.plan is not None
        found = []
        for category in categories:
            names = [node.name for node in self.plan.nodes if node.category == category]
            stages = [self.outcomes.get(name) or self._left(name) for name in [*names, f"publish@{category}"]]
            found.append(CategoryOutcome(category, tuple(stages), self.publications.get(category)))
        return found

    def _left(self, name: str) -> StageOutcome:
        stage, _, category = name.partition("@")
        ends = [o for o in self.outcomes.values() if o.category == category]
        cause = next((o.stage for o in ends if o.state in ("failed", "stopped")), "")
        reason = f"{cause} came to no end before it" if cause else "it was never started; Prefect's log says why"
        return StageOutcome(stage, category, "not run", 0.0, reason)


SESSION: ContextVar[Session | None] = ContextVar("session", default=None)


@flow(name="retrain", log_prints=False)
def retrain(categories: list[str]) -> Any:
    """Bring the stages of `categories` up to date, publish each, and end in the state that tells how it went.

    One category's failure does not stop the others. The run is Failed if a stage failed, Cancelled if it
    was stopped, else Completed; a refusal by the gates is an outcome, not a failure.
    """
    session = SESSION.get() or Session(find_root())
    with contextlib.ExitStack() as locks:
        for category in sorted(set(categories)):
            locks.enter_context(standing_still(session.root, category, "wait for it to end"))
            latent.settle(session.root, category)
        session.plan = make_plan(session.root, categories)  # only now do the images stand still
        ensure_slots(reset=session.owned_server)
        try:
            _submit(session, categories)
        except BaseException:
            session.cancellation.stop()  # no stage may go on without the flow that watches it
            raise
    results = session.results(categories)
    for result in results:
        remember(session.root, result)
    return _final_state(results, session.cancellation.stopped)


def _submit(session: Session, categories: Sequence[str]) -> None:
    assert session.plan is not None
    run_id = str(flow_run.id or "")
    futures: dict[str, PrefectFuture[Any]] = {}
    for node in session.plan.nodes:
        futures[node.name] = _stage_task(session, node).submit(wait_for=[futures[up] for up in node.upstream])
    for category in categories:
        before = [futures[node.name] for node in session.plan.nodes if node.category == category]
        futures[f"publish@{category}"] = _publish_task(session, category, run_id).submit(wait_for=before)
    for future in futures.values():
        future.wait()


def _stage_task(session: Session, node: StageNode) -> Task[..., Any]:
    """One Prefect task for one stage; its name in the interface is the stage's."""
    failure: list[BaseException] = []

    def stage() -> State[Any]:
        return _guarded(session, node.name, failure, lambda started: _run_stage(session, node, started))

    return Task(
        fn=stage,
        name=node.stage,
        task_run_name=node.name,
        tags=[node.category],
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=lambda task, run, state: may_pass(failure[-1]) and not session.cancellation.stopped,
        cache_policy=NO_CACHE,  # DVC decides what is unchanged, by contents
        persist_result=False,
    )


def _publish_task(session: Session, category: str, run_id: str) -> Task[..., Any]:
    name = f"publish@{category}"
    failure: list[BaseException] = []

    def publish() -> State[Any]:
        return _guarded(session, name, failure, lambda started: _publish(session, category, run_id, started))

    return Task(
        fn=publish,
        name="publish",
        task_run_name=name,
        tags=[category],
        retries=len(PUBLISH_DELAYS),  # it goes on where it stopped
        retry_delay_seconds=PUBLISH_DELAYS,
        retry_condition_fn=lambda task, run, state: published_later(failure[-1]) and not session.cancellation.stopped,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def _guarded(
    session: Session, name: str, failure: list[BaseException], work: Callable[[float], State[Any]]
) -> State[Any]:
    """Do `work`, recording a failure as the stage's outcome before Prefect sees it."""
    started = time.monotonic()
    try:
        return work(started)
    except StoppedError:
        session.record(name, "stopped", started, "stopped on request")
        return Cancelled(message="stopped on request")
    except Exception as error:
        failure.append(error)
        reason = str(error) or type(error).__name__
        if isinstance(error, StageError) and error.code != USER_ERROR:
            reason = f"{reason} (exit code {error.code})"
        session.record(name, "failed", started, reason)
        raise
    except BaseException as error:  # Prefect's cancellation is one; let through, it ends the other categories too
        failure.append(error)
        reason = f"it was cut off ({type(error).__name__}); run again, it resumes"
        session.record(name, "failed", started, reason)
        raise RuntimeError(reason) from error


def may_pass(error: BaseException) -> bool:
    """Whether another try can succeed: a busy lock, the operating system, a crash; never a wrong input."""
    if isinstance(error, StageError):
        return error.code != USER_ERROR
    return isinstance(error, LockBusyError | OSError)


def published_later(error: BaseException) -> bool:
    """Whether another try to publish can succeed: MLflow, its database or its store is away, or someone decides."""
    from flows import record
    from flows.adapters import registry

    return registry.passes(error) or isinstance(error, ConnectionError | record.ContestedError)


def _run_stage(session: Session, node: StageNode, started: float) -> State[Any]:
    assert session.plan is not None
    moved = [up for up in node.upstream if session.outcomes[up].state != "skipped"]
    reasons = session.plan.stale.get(node.name, []) + [f"{up.partition('@')[0]} ran before it" for up in moved]
    if not reasons:
        return _skipped(session, node.name, started, UNCHANGED)
    teller = Teller(node.name, session.reporter, get_run_logger())
    # Hours of training outlive a restart of the server, which loses the lease on the slot.
    slot = concurrency(GPU, occupy=1, strict=True, raise_on_lease_renewal_failure=False)
    with slot if node.gpu else contextlib.nullcontext():
        started = time.monotonic()  # not the time spent waiting for the slot
        session.reporter.start(node.name, "; ".join(reasons))
        done = versioning.repro_stage(session.root, node.name, teller.line, session.cancellation)
    if done.state == "unchanged":
        return _skipped(session, node.name, started, "unchanged: what runs before it came out as it was")
    outcome = session.record(node.name, done.state, started, "; ".join(reasons))
    return Completed(message=f"{outcome.state}: {outcome.reason}")


def _skipped(session: Session, name: str, started: float, reason: str) -> State[Any]:
    session.record(name, "skipped", started, reason)
    return Completed(name="Skipped", message=reason)


def _publish(session: Session, category: str, run_id: str, started: float) -> State[Any]:
    from flows import publish, validated  # MLflow takes seconds to import; not before there is something to publish

    if session.cancellation.stopped:
        raise StoppedError
    session.reporter.start(f"publish@{category}", "writes the run, registers the model, judges the gates")
    validation = validated.read(session.root, category)
    published = publish.publish(session.root, category, prefect_run_id=run_id, validation=validation)
    session.publications[category] = published
    session.record(f"publish@{category}", "ran" if published.new else "skipped", started, published.message)
    return Completed(name=published.status.capitalize(), message=published.message)


def _final_state(results: Sequence[CategoryOutcome], stopped: bool) -> State[Any]:
    if stopped:
        return Cancelled(message="stopped on request; the next run resumes from the last checkpoint")
    if errors := [f"{result.category}: {result.error}" for result in results if result.error]:
        return Failed(message="; ".join(errors))
    refused = [result.category for result in results if result.refused]
    return Completed(message=f"refused by the gates: {', '.join(refused)}" if refused else "all up to date")
