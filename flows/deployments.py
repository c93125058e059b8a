"""`python -m flows.deployments ROOT`: serve the plant's flows on this machine; `kintsugi up` starts it.

    watch/CATEGORY                 every few minutes; emits kintsugi.images.landed
    ingest-and-retrain/CATEGORY    started by that event, or by hand; one run at a time
    promote/decide                 a form: category, approver, decision, reason
    drift/CATEGORY                 once a day; emits kintsugi.drift

Categories that are imported while it runs join within seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import flows.environment  # noqa: F401  sets the defaults that Prefect reads when it is imported

# isort: split
from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner
from prefect.schedules import Cron, Interval
from prefect.types.entrypoint import EntrypointType

from components.settings import find_root, read_params
from flows import daily, environment, plant
from flows.server import Api

POLL = 2.0  # seconds between two looks for runs to start
LOOK = 5.0  # seconds between two looks for new categories
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
    return [
        _deployment(
            daily.watch, category, root, category,
            schedule=Interval(settings.watch.every), concurrency_limit=ONE_OR_NONE,
        ),
        _deployment(
            daily.ingest_and_retrain, category, root, category,
            triggers=[landed], concurrency_limit=ONE_AFTER_ANOTHER,
        ),
        _deployment(
            daily.drift, category, root, category,
            schedule=Cron(settings.drift.cron, timezone="UTC"), concurrency_limit=ONE_OR_NONE,
        ),
    ]  # fmt: skip


def _deployment(
    flow: Flow[..., Any], name: str, root: Path, category: str | None = None, **options: Any
) -> RunnerDeployment:
    parameters = {"root": str(root)} | ({"category": category} if category else {})
    made = flow.to_deployment(
        name=name,
        parameters=parameters,
        tags=["kintsugi", *([category] if category else [])],
        paused=False if "schedule" in options else None,  # also after a stop, which pauses schedules
        entrypoint_type=EntrypointType.MODULE_PATH,  # the installed package, wherever the workspace is
        **options,
    )
    assert isinstance(made, RunnerDeployment)
    return made


async def serve(root: Path) -> None:
    """Register every deployment and start their runs as they come due, until cancelled."""
    runner = Runner(name="kintsugi", query_seconds=POLL, pause_on_shutdown=True)
    for deployment in of_workspace(root):
        await runner.aadd_deployment(deployment)
    known: set[str] = set()
    await _join(runner, root, known)
    watching = asyncio.create_task(_keep_joining(runner, root, known))
    try:
        await runner.start()
    finally:
        watching.cancel()


async def _keep_joining(runner: Runner, root: Path, known: set[str]) -> None:
    while True:
        await asyncio.sleep(LOOK)
        await _join(runner, root, known)


async def _join(runner: Runner, root: Path, known: set[str]) -> None:
    for category in [str(name) for name in read_params(root)["categories"] or []]:
        if category not in known:
            for deployment in of_category(root, category):
                await runner.aadd_deployment(deployment)
            known.add(category)


def main(root: Path) -> None:
    """Serve the workspace `root` once its Prefect server answers."""
    environment.prepare(root)
    os.chdir(root)
    Api(os.environ["PREFECT_API_URL"]).wait()
    asyncio.run(serve(root))


if __name__ == "__main__":
    main(find_root(Path(sys.argv[1])))
