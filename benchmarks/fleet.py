"""Four categories across two hosts, one of which loses its power half-way; compared with one machine, hash for hash.

    PYTHONPATH=. python benchmarks/fleet.py [CATEGORIES]        default 4; needs PostgreSQL's package

The hosts are workers with folders, network namespaces and host names of their own (where the kernel lets us make
them); PostgreSQL stands behind Prefect's server, images and outputs travel through S3. The first host is cut off when a
checkpoint of one of its trainings has reached the store. Small settings: 32 x 32 pixels, 400 + 400 steps, one thread.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from components import __main__ as stages
from components.stage import STAGES
from flows.adapters import versioning
from flows.fleet import carrier
from flows.fleet.store import Store
from flows.server import free_port, healthy
from flows.team import bucket
from tests import tiny
from tests.e2e.hosts import Host, host, network
from tests.e2e.postgres import cluster
from tests.e2e.team import KEYS, objects, patched, served

LONG = {"vqvae": {"steps": 400}, "prior": {"steps": 400}}  # on an idle machine too, a checkpoint before the end
PLACE, RUN = "s3://kintsugi/fleet", "benchmark"


def one_thread(root: Path) -> None:
    """Let stages use one thread, here and in the workspace: two on a busy machine mostly wait for each other."""
    main = root / "components" / "__main__.py"
    main.write_text(main.read_text().replace("os.cpu_count() or 1", "1"))
    torch.set_num_threads(1)
    torch.set_num_threads = lambda count: None


def alone(root: Path, categories: Sequence[str]) -> dict[str, dict[str, str]]:
    """Every stage of every category on this machine, in this process; category -> results."""
    found = {}
    os.chdir(root)
    for category in categories:
        for stage in STAGES:
            assert stages.main([stage, category]) == 0
        found[category] = tiny.results(root / "artifacts" / category)
    return found


def heard() -> list[str]:
    """What every machine said, from Prefect's log: a worker's own does not hold its runs' lines."""
    from prefect.client.orchestration import get_client

    lines: list[str] = []
    with get_client(sync_client=True) as client:
        while page := client.read_logs(limit=200, offset=len(lines)):
            lines += [each.message for each in page]
    return lines


def cut_one(first: Host, categories: Sequence[str], say: list[str]) -> None:
    """Cut the first host's power once a checkpoint of one of its trainings is in the store."""
    store = Store(PLACE, RUN)
    while True:
        for category in categories:
            alive = store.get(carrier.alive_name(category)) or b""
            for stage in ("train_vqvae", "train_prior"):
                if str(first.folder).encode() in alive and store.get(carrier.checkpoint_name(category, stage)):
                    first.cut_power()
                    say.append(f"{first.name} lost its power while it trained {category}, {stage}")
                    print(say[-1], flush=True)
                    return
        time.sleep(0.3)


def main(count: int) -> int:
    """Print who did what, the times, and whether results are equal; 1 if they are not."""
    categories = [f"part{number}" for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="kintsugi-fleet-") as scratch, patched(KEYS):
        folder = Path(scratch)
        single = tiny.make(folder / "single", categories, **LONG)
        one_thread(single)
        versioning.add_data(single)
        commit = tiny.commit(single, "data")
        collector = folder / "collector"
        shutil.copytree(single, collector)
        started = time.monotonic()
        reference = alone(single, categories)
        print(f"one machine: {time.monotonic() - started:.0f} s", flush=True)
        with network() as here, cluster("prefect") as databases, objects(folder, host="0.0.0.0") as store:
            port = free_port(host=here)
            address, objects_at = f"http://{here}:{port}/api", store.replace("127.0.0.1", here)
            env = {
                "AWS_ENDPOINT_URL": objects_at, "KINTSUGI_DVC_REMOTE": "s3://kintsugi/dvc", "KINTSUGI_FLEET": PLACE,
                "PREFECT_API_URL": address, "KINTSUGI_CHECKPOINT_SECONDS": "0.2", "KINTSUGI_FLEET_BEAT": "1",
            }  # fmt: skip
            database = {
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{databases['prefect']}",
                "PREFECT_HOME": str(folder / "prefect"),
            }
            server = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", here, "--port", str(port)]
            with (
                patched(env | {"PREFECT_HOME": str(folder / "client")}),
                served("prefect", server, database, folder, lambda: healthy(f"{address}/health")),
            ):
                from flows.fleet import dispatch

                bucket.ensure("s3://kintsugi")
                versioning.push(collector, ["data.dvc"])
                isolated, said = here != "127.0.0.1", list[str]()
                started = time.monotonic()
                with host(1, folder, env, isolated) as first, host(2, folder, env, isolated):
                    threading.Thread(target=cut_one, args=(first, categories, said), daemon=True).start()
                    dispatch.dispatch(str(single), commit, categories, PLACE, RUN)
                (collector / "dvc.lock").unlink(missing_ok=True)
                taken = dispatch.collect(collector, categories, PLACE, RUN)
                print(f"two hosts: {time.monotonic() - started:.0f} s, {len(taken)} stages collected", flush=True)
                lines = heard()
                resumed = [line for line in lines if "resumes at step" in line]
                print(*(line for line in lines if " on kintsugi-host-" in line), *resumed, sep="\n", flush=True)
                stale = versioning.stale_stages(collector, [f"{s}@{c}" for s in STAGES for c in categories])
        found = {category: tiny.results(collector / "artifacts" / category) for category in categories}
    files = sum(len(each) for each in reference.values())
    differing = [f"{c}/{p}" for c in categories for p, digest in reference[c].items() if found[c].get(p) != digest]
    print(f"files compared: {files}, differing: {len(differing)} {differing[:5]}; stale after collecting: {len(stale)}")
    return 1 if differing or stale or not said or not resumed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4))
