"""What one machine does with one category: its flow, which a Prefect worker of the pool starts.

The machine's folder is its own. It stands on one commit, whose code is what the stages run; what other machines made
comes through DVC's remote and the run's folder in the store, never through a shared disk.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import flows.environment  # noqa: F401  sets the defaults that Prefect reads when it is imported

# isort: split
from prefect import Task, flow, get_run_logger
from prefect.cache_policies import NO_CACHE

from components.errors import UserError
from flows.adapters import versioning
from flows.fleet import carrier, locks
from flows.fleet.store import Store
from flows.graph import load_graph
from flows.retrain import RETRY_DELAYS, may_pass
from flows.team.checkout import checkout

FOLDER = "KINTSUGI_FLEET_FOLDER"  # the machine's own; every worker has another
BEAT = "KINTSUGI_FLEET_BEAT"  # seconds between two signs of life


@flow(name="train-category")
def train_category(repository: str, commit: str, category: str, place: str, run: str) -> dict[str, str]:
    """Bring every stage of `category` up to date at `commit`; stage -> how (ran, restored, unchanged).

    What another machine has finished of this run is fetched, and its last checkpoint is gone on from.
    """
    folder = os.environ.get(FOLDER, "")
    if not folder:
        raise UserError(f"a worker of a fleet needs a folder of its own; set {FOLDER}")
    root, store = Path(folder), Store(place, run)
    with carrier.living(store, root, category, _beat()):
        return _train(root, store, repository, commit, category)


def _train(root: Path, store: Store, repository: str, commit: str, category: str) -> dict[str, str]:
    log = get_run_logger()
    checkout(root, repository, commit)
    (root / "dvc.lock").unlink(missing_ok=True)  # of the commit; only what this run made counts
    versioning.pull(root, [f"data/{category}"])
    done = locks.receive(root, store, category)
    if done:
        versioning.pull(root, done)
        log.info("%s: %d stages were done by another machine", category, len(done))
    ends: dict[str, str] = {}
    for node in load_graph(root, [category]):
        ends[node.stage] = str(_task(root, store, category, node.stage)())
        log.info("%s %s on %s", node.name, ends[node.stage], socket.gethostname())
    return ends


def _task(root: Path, store: Store, category: str, stage: str) -> Task[..., Any]:
    failure: list[BaseException] = []

    def work() -> str:
        try:
            return _stage(root, store, category, stage)
        except Exception as error:
            failure.append(error)
            raise

    return Task(
        fn=work,
        name=stage,
        task_run_name=f"{stage}@{category}",
        tags=[category],
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=lambda task, run, state: may_pass(failure[-1]),
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def _stage(root: Path, store: Store, category: str, stage: str) -> str:
    log, name = get_run_logger(), f"{stage}@{category}"
    with carrier.carried(store, root, category, stage, _beat()):
        done = versioning.repro_stage(root, name, lambda line: log.info("%s", line), pull=True)
        if done.state != "unchanged":
            versioning.push(root, [name], run_cache=True)
        locks.send(root, store, category)
    return done.state


def _beat() -> float:
    return float(os.environ.get(BEAT, carrier.EVERY))
