"""`python -m flows.deployments ROOT`: serve the plant's flows on this machine; `kintsugi up` starts it.

    watch/CATEGORY                 every few minutes; emits kintsugi.images.landed
    ingest-and-retrain/CATEGORY    started by that event, or by hand; one run at a time
    promote/decide                 a form: category, approver, decision, reason
    drift/CATEGORY                 once a day; emits kintsugi.drift

Categories that are imported while it runs join within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

import flows.environment  # noqa: F401  sets the defaults that Prefect reads when it is imported

# isort: split
from prefect import Flow, get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType

from components.errors import UserError
from components.settings import find_root, read_params
from flows import daily, environment, plant
from flows.server import Api

log = logging.getLogger(__name__)
POLL = 2.0  # seconds between two looks for runs to start
LOOK = 2.0  # seconds between two looks for new categories and for what is due
ONE_AFTER_ANOTHER = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
# A look that comes while the one before is still at it would see the same.
ONE_OR_NONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


@dataclass(frozen=True)
class Planned:
    """A deployment, and the seconds between its runs; None where something else starts them."""

    deployment: RunnerDeployment
    every: float | None = None


def of_workspace(root: Path) -> list[Planned]:
    """The deployments that belong to no category."""
    return [Planned(_deployment(daily.promote, "decide", root, concurrency_limit=ONE_AFTER_ANOTHER))]


def of_category(root: Path, category: str) -> list[Planned]:
    """The deployments of one category; UserError when settings/plant.yaml is wrong."""
    settings = plant.load(root, category)
    landed = DeploymentEventTrigger(
        name=f"retrain {category} when images landed",
        expect={daily.LANDED},
        match={"prefect.resource.id": daily.resource(category)},
        parameters={"digest": "{{ event.payload.digest }}"},
    )
    retrain = _deployment(
        daily.ingest_and_retrain, category, root, category, triggers=[landed], concurrency_limit=ONE_AFTER_ANOTHER
    )
    return [
        Planned(
            _deployment(daily.watch, category, root, category, concurrency_limit=ONE_OR_NONE), settings.watch.every
        ),
        Planned(retrain),
        Planned(
            _deployment(daily.drift, category, root, category, concurrency_limit=ONE_OR_NONE),
            settings.drift.every * 3600,
        ),
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
    """What is registered and when it runs next.

    Runs are started from here and not by the server's scheduler: that of Prefect 3.8 fails on SQLAlchemy
    2.1, silently but for its log (it inserts runs in bulk through a hybrid property).
    """

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root, self.runner = root, runner
        self.categories: set[str] = set()
        self.due: dict[UUID, tuple[float, float]] = {}  # deployment -> (seconds between runs, time of the next)

    async def join(self) -> None:
        """Register the deployments of categories that are new."""
        for category in [str(name) for name in read_params(self.root)["categories"] or []]:
            if category not in self.categories:
                await self.add(of_category, self.root, category)
                self.categories.add(category)

    async def add(self, make: Callable[..., list[Planned]], *arguments: Any) -> None:
        """Register what `make` returns; it runs in a thread, as Prefect would give a coroutine in a loop."""
        for planned in await asyncio.to_thread(make, *arguments):
            identity = await self.runner.aadd_deployment(planned.deployment)
            if planned.every is not None:
                self.due[identity] = (planned.every, time.monotonic())

    async def start_due(self) -> None:
        """Start what is due; a server that does not answer is asked again at the next look."""
        async with get_client() as client:
            for identity, (every, when) in self.due.items():
                if time.monotonic() >= when:
                    await client.create_flow_run_from_deployment(identity)
                    self.due[identity] = (every, time.monotonic() + every)

    async def keep(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.join()
                await self.start_due()
            except (UserError, httpx.HTTPError) as error:  # half-written settings, a restarting server
                log.warning("the plan was not updated: %s", error)
            await asyncio.sleep(LOOK)


async def serve(root: Path) -> None:
    """Register every deployment and start their runs as they come due, until cancelled."""
    runner = Runner(name="kintsugi", query_seconds=POLL, pause_on_shutdown=False)
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
    os.chdir(root)
    Api(os.environ["PREFECT_API_URL"]).wait()
    asyncio.run(serve(root))


if __name__ == "__main__":
    main(find_root(Path(sys.argv[1])))
