"""`python -m flows.deployments ROOT`: serve the plant's flows on this machine; `kintsugi up` starts it.

    watch/CATEGORY                 every few minutes, and at once; emits kintsugi.images.landed
    ingest-and-retrain/CATEGORY    started by that event, or by hand; one run at a time
    promote/decide                 a form: category, approver, decision, reason
    drift/CATEGORY                 once a day, and at once; emits kintsugi.drift

Categories that are imported while it runs join within seconds, and those that params.yaml no longer names leave.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import flows.environment  # noqa: F401  sets the defaults that Prefect reads when it is imported

# isort: split
from prefect import Flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType

from components.settings import find_root, read_params
from flows import daily, environment, plant
from flows.server import Api

log = logging.getLogger(__name__)
POLL = 2.0  # seconds between two looks for runs to start
LOOK = 2.0  # seconds between two looks for new categories
PAGE = 100  # deployments asked for at once
ONE_AFTER_ANOTHER = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
# A look that comes while the one before is still at it would see the same.
ONE_OR_NONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def of_workspace(root: Path) -> list[RunnerDeployment]:
    """The deployments that belong to no category."""
    return [_deployment(daily.promote, "decide", root, concurrency_limit=ONE_AFTER_ANOTHER)]


def of_category(root: Path, category: str) -> list[RunnerDeployment]:
    """The deployments of one category; UserError when settings/plant.yaml is wrong."""
    settings = plant.load(root, category)
    landed = DeploymentEventTrigger(
        name=f"retrain {category} when images landed",
        expect={daily.LANDED},
        match={"prefect.resource.id": daily.resource(category)},
        parameters={"digest": "{{ event.payload.digest }}"},
    )

    def scheduled(flow: Flow[..., Any], every: timedelta) -> RunnerDeployment:
        return _deployment(flow, category, root, category, interval=every, concurrency_limit=ONE_OR_NONE)

    return [
        scheduled(daily.watch, timedelta(seconds=settings.watch.every)),
        _deployment(
            daily.ingest_and_retrain, category, root, category, triggers=[landed], concurrency_limit=ONE_AFTER_ANOTHER
        ),
        scheduled(daily.drift, timedelta(hours=settings.drift.every)),
    ]


def _deployment(
    flow: Flow[..., Any], name: str, root: Path, category: str | None = None, **options: Any
) -> RunnerDeployment:
    made = flow.to_deployment(
        name=name,
        parameters={"root": str(root)} | ({"category": category} if category else {}),
        tags=["kintsugi", *([category] if category else [])],
        entrypoint_type=EntrypointType.MODULE_PATH,  # the installed package, wherever the workspace is
        **options,
    )
    assert isinstance(made, RunnerDeployment)
    return made


class Plan:
    """What is registered. Prefect's server schedules the runs; the runner of this process starts them."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root, self.runner = root, runner
        self.categories: set[str] = set()
        self.told: dict[str, str] = {}  # category -> why it could not join, as it was said last
        self.looked = False  # whether those that left while nothing was up have been looked for

    async def join(self) -> None:
        """Register the deployments of categories that are new, and take away those of categories that are gone.

        One that cannot join keeps no other from it; why is logged once, and it is tried again at the next look.
        """
        known = [str(name) for name in read_params(self.root)["categories"] or []]
        for category in known:
            if category in self.categories:
                continue
            try:
                await self.add(of_category, self.root, category)
            except Exception as error:  # half-written settings, a restarting server, a schedule that Prefect refuses
                if self.told.get(category) != str(error):
                    log.warning("%s has no schedules yet: %s", category, error)
                self.told[category] = str(error)
            else:
                self.categories.add(category)
                self.told.pop(category, None)
        if not self.looked or not self.categories <= set(known):
            async with get_client() as client:
                await _forget_gone(client, self.root, known)
            self.categories &= set(known)
            self.looked = True

    async def add(self, make: Callable[..., list[RunnerDeployment]], *arguments: Any) -> None:
        """Register what `make` returns; it runs in a thread, as Prefect would give a coroutine in a loop.

        What has a schedule runs once at once: much may have landed while nothing was up, and a machine that
        is switched off every night would never reach the end of a day-long interval.
        """
        async with get_client() as client:
            for deployment in await asyncio.to_thread(make, *arguments):
                identity = await self.runner.aadd_deployment(deployment)
                if deployment.schedules:
                    await _forget_missed(client, identity)
                    await client.create_flow_run_from_deployment(identity)

    async def keep(self) -> None:
        """Look for new categories again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.join()
            except Exception as error:  # whatever it is: without this task new categories would never join
                log.warning("the plan was not updated: %s", error)


async def _forget_missed(client: PrefectClient, deployment: UUID) -> None:
    """Delete runs that fell due while nothing was up: one look sees all that they would have seen."""
    never_ran = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    for run in await client.read_flow_runs(flow_run_filter=FlowRunFilter(state=never_ran), deployment_filter=mine):
        if run.auto_scheduled and run.expected_start_time and run.expected_start_time <= datetime.now(UTC):
            await client.delete_flow_run(run.id)


async def _forget_gone(client: PrefectClient, root: Path, known: Sequence[str]) -> None:
    """Delete this workspace's deployments, and what is scheduled of them, for categories that are not `known`."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=["kintsugi"]))
    found: list[DeploymentResponse] = []
    while page := await client.read_deployments(deployment_filter=ours, limit=PAGE, offset=len(found)):
        found += page
    for each in found:
        category = each.parameters.get("category")  # none: it is the workspace's own
        if each.parameters.get("root") == str(root) and category is not None and category not in known:
            await client.delete_deployment(each.id)


async def serve(root: Path) -> None:
    """Register every deployment and start their runs as they come due, until cancelled."""
    # Without prefetching: a run that is fetched early holds the one slot of its deployment until its time comes.
    runner = Runner(name="kintsugi", query_seconds=POLL, prefetch_seconds=0, pause_on_shutdown=False)
    plan = Plan(root, runner)
    await plan.add(of_workspace, root)
    await plan.join()
    keeping = asyncio.create_task(plan.keep())
    try:
        await runner.start()
    finally:
        keeping.cancel()


def main(root: Path) -> None:
    """Serve the workspace `root` once its Prefect server answers."""
    environment.prepare(root)
    for category in read_params(root)["categories"] or []:
        plant.load(root, str(category))  # what is wrong at the start is said at once, and nothing comes up
    os.chdir(root)
    Api(os.environ["PREFECT_API_URL"]).wait()
    asyncio.run(serve(root))


if __name__ == "__main__":
    main(find_root(Path(sys.argv[1])))
