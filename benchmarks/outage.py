"""PostgreSQL and the object store gone for 60 s in mid-run and in mid-publication, through real servers.

    PYTHONPATH=. python benchmarks/outage.py [SECONDS]        default 60; needs PostgreSQL's package

The connections of MLflow, Prefect and their clients to both are cut and refused, then taken again. The same code with
three seconds is tests/e2e/test_team.py.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from flows.publish import publish
from flows.team import rights
from tests.artifacts_fixture import Fabricator, make_workspace
from tests.e2e import outage
from tests.e2e.team import ADMIN_PASSWORD, patched, team
from tests.toy import make as make_toy


def main(seconds: float) -> int:
    """Print what came out and how long it took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "toy").mkdir()
        with team(folder) as running, patched(running.client("admin", ADMIN_PASSWORD)):
            root = make_workspace(folder / "plant", policy="manual")
            Fabricator(root)()
            rights.apply(root, ["brick"])
            os.chdir(root)
            started = time.monotonic()
            publish(root, "brick")
            print(f"a publication undisturbed: {time.monotonic() - started:.0f} s", flush=True)
            Fabricator(root)(seed=7)
            found, took = outage.during_a_publication(running, root, seconds, outage.when_parameters_are_logged)
            print(f"away for {seconds:g} s in mid-publication: {found.status} after {took:.0f} s", flush=True)
            toy = make_toy(folder / "toy")
            os.chdir(toy.root)
            started = time.monotonic()
            said = outage.during_a_run(running, toy, seconds)
            print(f"away for {seconds:g} s in mid-run: {said} after {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
