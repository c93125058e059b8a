"""`python -m flows.fleet.dispatch REPOSITORY COMMIT [CATEGORY…]`: train categories across the workers of a pool.

Hands each category to whoever is free, gives it to another when its machine falls silent, and in the end writes one
dvc.lock and fetches the outputs. The workers' pool is `fleet`; see docs/fleet.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import flows.environment  # noqa: F401  sets the defaults that Prefect reads when it is imported

# isort: split
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from components.errors import UserError
from components.settings import find_root
from flows.adapters import git, versioning
from flows.fleet import carrier, locks, store
from flows.fleet.store import Store

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL, NAME = "fleet", "train-category/fleet"
LOOK = 2.0  # seconds between two looks
SILENCE = 60.0  # seconds without a sign of life after which a machine counts as gone
TRIES = 4  # machines that a category is given to before it counts as failed


@dataclass
class Errand:
    """A category on its way: the flow run that has it now, and the last that was heard of it."""

    category: str
    run: FlowRun
    tries: int = 1
    beat: bytes | None = None
    heard: float = field(default_factory=time.monotonic)
    started: bool = False


def dispatch(
    repository: str,
    commit: str,
    categories: Sequence[str],
    place: str,
    run: str,
    silence: float = SILENCE,
    say: Callable[[str], object] = print,
) -> None:
    """Return when every category is trained; UserError, after all have ended, naming those that failed."""
    shared, failed = Store(place, run), dict[str, str]()
    with get_client(sync_client=True) as client:
        deployment = deploy(client)

        def submit(category: str) -> FlowRun:
            given = {
                "repository": repository, "commit": commit, "category": category, "place": place, "run": run,
            }  # fmt: skip
            name = f"{category} {run}"
            return client.create_flow_run_from_deployment(deployment, parameters=given, tags=[category], name=name)

        errands = [Errand(category, submit(category)) for category in categories]
        while errands:
            for errand in list(errands):
                ended = _look(client, shared, errand, silence)
                if ended is None:
                    continue
                if ended == "":
                    say(f"{errand.category}: done")
                elif ended.startswith("gone") and errand.tries < TRIES:
                    say(f"{errand.category}: {ended}; given to another machine")
                    errand.run, errand.tries, errand.started = submit(errand.category), errand.tries + 1, False
                    errand.heard = time.monotonic()
                    continue
                else:
                    failed[errand.category] = ended
                errands.remove(errand)
            time.sleep(LOOK)
    if failed:
        raise UserError("; ".join(f"{category} was not trained: {why}" for category, why in failed.items()))


def _look(client: SyncPrefectClient, shared: Store, errand: Errand, silence: float) -> str | None:
    """None while it is under way, "" when it is done, else why not; `gone…` when the machine is."""
    state = client.read_flow_run(errand.run.id).state
    if state is None or state.is_scheduled() or state.is_pending():
        errand.heard = time.monotonic()  # nobody has it: a queue may be long
        return None
    if state.is_completed():
        return ""
    if state.is_crashed() or state.is_cancelled():
        return f"gone: {state.message}"
    if state.is_final():
        return str(state.message)
    beat = shared.get(carrier.alive_name(errand.category))
    if beat != errand.beat or not errand.started:
        errand.beat, errand.heard, errand.started = beat, time.monotonic(), True
    if time.monotonic() - errand.heard <= silence:
        return None
    told = f"no sign of life for {silence:g} s"
    # Should it live after all, it makes the same bytes under the same names.
    client.set_flow_run_state(errand.run.id, Crashed(message=told), force=True)
    return f"gone: {told}"


def deploy(client: SyncPrefectClient) -> uuid.UUID:
    """Make the work pool and the deployment, or bring them up to date; the deployment's id."""
    from flows.fleet.work import train_category

    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    made = train_category.to_deployment(name="fleet", entrypoint_type=EntrypointType.MODULE_PATH, work_pool_name=POOL)
    assert isinstance(made, RunnerDeployment)
    found = made.apply()
    assert isinstance(found, uuid.UUID)
    return found


def collect(root: Path, categories: Sequence[str], place: str, run: str, fetch: bool = True) -> list[str]:
    """Write one dvc.lock from the machines' parts and fetch the outputs; the stages taken over.

    Entries of other categories stay as they are. UserError when a part is missing.
    """
    shared, taken = Store(place, run), []
    for category in categories:
        part = locks.receive(root, shared, category)
        if not part:
            raise UserError(f"no machine has brought a lock of '{category}' for run {run}; dispatch it again")
        taken += part
    if fetch:
        versioning.pull(root, taken)
    return taken


def main(arguments: list[str]) -> int:
    """Dispatch and collect in the workspace of the current folder; 1 with one line when a category failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.fleet.dispatch", description=__doc__.splitlines()[0])
    parser.add_argument("repository", help="address that every worker can clone")
    parser.add_argument("commit", help="what they stand on")
    parser.add_argument("categories", nargs="*", help="default: all of params.yaml")
    parser.add_argument("--run", default="", help="a name; the same again goes on where that one stopped")
    parser.add_argument("--silence", type=float, default=SILENCE, help="seconds after which a machine counts as gone")
    chosen = parser.parse_args(arguments)
    try:
        from flows.run import choose

        root = find_root()
        categories, place = choose(root, chosen.categories), store.place()
        commit = git.git(root, "rev-parse", "--verify", f"{chosen.commit}^{{commit}}")
        run = chosen.run or f"{commit[:12]}-{uuid.uuid4().hex[:6]}"
        print(f"run {run}")
        dispatch(chosen.repository, commit, categories, place, run, chosen.silence)
        print(f"{len(collect(root, categories, place, run))} stages collected; `kintsugi run` publishes them")
    except UserError as error:
        print(f"kintsugi: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
