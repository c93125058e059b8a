"""A plant's day on one machine, with PostgreSQL behind Prefect and MLflow.

Images land while `kintsugi up` runs; they are taken in, the model is retrained, a person promotes it on the
form, takes it back, and an auditor finds every link verified.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.inspector import Inspector
from flows import fixity, plant, promote
from flows.audit import audit
from flows.publish import publish
from tests.artifacts_fixture import REPO, Fabricator, make_workspace, set_params, write_bundle
from tests.e2e.postgres import cluster
from tests.plant_fixture import save
from tests.tiny import broken, edit, noise, shrink

pytestmark = pytest.mark.slow

PATIENCE = 240.0  # seconds for any one thing to happen


def make_plant(root: Path) -> Path:
    """A workspace with toy settings, real stages, and the outputs of a model that will be the first champion."""
    make_workspace(root)
    shutil.copytree(REPO / "components", root / "components", ignore=shutil.ignore_patterns("__pycache__"))
    set_params(root, "manual")
    shrink(root)
    limits = {"minimum": {"image_auroc": 0.0}, "maximum": {}, "tolerance": {}}
    edit(root / "mlflow/gates.yaml", lambda gates: gates.update(test=limits, synthetic=limits))

    def hurry(settings: Any) -> None:
        settings["ingest"].update(branch="plant", settle=1)
        settings["watch"].update(every=4, images=6)

    edit(root / plant.FILE, hurry)
    fabricate = Fabricator(root)
    fabricate()
    package = root / "artifacts/brick/package"
    write_bundle(package)
    scores = [seen.score for seen in Inspector.load(package).inspect([noise(seed) for seed in range(100, 120)])]
    bundle = json.loads((package / "bundle.json").read_text())
    bundle["calibration"] |= {"image_threshold": max(scores) * 1.02, "normal_scores": scores}
    (package / "bundle.json").write_text(json.dumps(bundle))
    fabricate.record("brick")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "add", "-A"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a plant"], cwd=root, check=True)
    return root


def eventually(what: str, condition: Callable[[], Any]) -> Any:
    """Wait for `condition` to give something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE:g} s"
        time.sleep(0.5)
    return found


def logs(root: Path) -> str:
    """What the servers said last, for a failure's message."""
    paths = [root / ".kintsugi.log", *sorted((root / ".kintsugi").glob("*.log"))]
    return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in paths)


class Api:
    """The server's API, as its own pages use it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def deployments(self) -> set[str]:
        return {found["name"] for found in self.call("/deployments/filter", {})}

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Runs of a flow's deployments, oldest first."""
        asked = {
            "flows": {"name": {"any_": [flow]}},
            "deployments": {"name": {"like_": ""}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        found: list[dict[str, Any]] = self.call("/flow_runs/filter", asked)
        return found

    def ended(self, flow: str, count: int) -> dict[str, Any] | None:
        """The `count`-th run of a flow, once it has ended."""
        runs = self.runs(flow)
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return runs[count - 1] if len(runs) >= count and runs[count - 1]["state"]["type"] in final else None

    def submit(self, flow: str, deployment: str, **parameters: str) -> None:
        """Fill in a deployment's form."""
        found = self.call(f"/deployments/name/{flow}/{deployment}")
        self.call(f"/deployments/{found['id']}/create_flow_run", {"parameters": found["parameters"] | parameters})


@pytest.fixture
def day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Api]]:
    """`kintsugi up` at work in a plant, its first champion serving."""
    with cluster("prefect", "mlflow") as addresses:
        root = make_plant(tmp_path / "plant")
        monkeypatch.chdir(root)
        for name in ("PREFECT_API_URL", "PREFECT_HOME"):
            monkeypatch.delenv(name, raising=False)
        env = {
            **os.environ,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{addresses['prefect']}",
            "MLFLOW_TRACKING_URI": f"postgresql+psycopg2://{addresses['mlflow']}",
            "OMP_NUM_THREADS": "1",
        }
        program = Path(sys.executable).parent / "kintsugi"
        with (root / ".kintsugi.log").open("w") as log:
            served = subprocess.Popen(
                [str(program), "up", "--prefect-port", "14200", "--mlflow-port", "15000"],
                cwd=root, env=env, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            record = root / ".kintsugi/up.json"
            eventually("up", lambda: record.exists() or served.poll() is not None)
            assert served.poll() is None, logs(root)
            up = json.loads(record.read_text())
            monkeypatch.setenv("MLFLOW_TRACKING_URI", up["mlflow"])
            publish(root, "brick")
            assert promote.promote(root, "brick", "Ada", "the line's first model") == "1"
            yield root, Api(up["prefect_api"])
        finally:
            served.send_signal(signal.SIGINT)
            served.wait(60)


def test_images_land_and_a_model_serves_is_taken_back_and_audited(day: tuple[Path, Api]) -> None:
    root, api = day
    eventually("deployments", lambda: {"brick", "decide"} <= api.deployments())
    landing = root / "landing/brick"
    for i in range(7):
        save(landing / f"new{i}.png", noise(200 + i))
    save(landing / "broken.png", broken(300))
    (landing / "empty.png").write_bytes(b"")

    run = eventually("ingest and retrain", lambda: api.ended("ingest-and-retrain", 1))
    assert run["state"]["type"] == "COMPLETED", logs(root)
    assert len(run["parameters"]["digest"]) == 64  # the event's, so the trigger started it
    looks = [look for look in api.runs("watch") if look["auto_scheduled"]]  # by Prefect's own schedule
    assert {"COMPLETED", "SCHEDULED"} <= {look["state"]["type"] for look in looks}
    assert not list(landing.iterdir())
    good = {path.name for path in (root / "data/brick/train/good").iterdir()}
    held = {path.name for path in (root / "held/brick").glob("*.png")}
    assert "broken.png" in held and "broken.png" not in good
    assert {f"new{i}.png" for i in range(7)} <= good | held and len(good) > 8
    assert {path.name for path in (root / "quarantine/brick").glob("*.png")} == {"empty.png"}
    shown = ["git", "show", "refs/heads/plant:data.dvc"]
    committed = subprocess.run(shown, cwd=root, check=True, capture_output=True, text=True).stdout
    assert fixity.listing_md5(fixity.listing(root / "data")) in committed

    api.submit("promote", "decide", category="brick", approver="Bo", reason="it saw the new images", decision="approve")
    run = eventually("promotion", lambda: api.ended("promote", 1))
    assert "champion is version 2" in run["state"]["message"], run["state"]
    served = audit(root, "brick")
    assert served.verified and served.version == "production.brick version 2", served.broken

    api.submit("promote", "decide", category="brick", approver="Cy", reason="too many stops", decision="rollback")
    run = eventually("rollback", lambda: api.ended("promote", 2))
    assert "champion is version 1" in run["state"]["message"], run["state"]
    for version in (None, "2"):
        trail = audit(root, "brick", version)
        assert trail.verified, trail.broken
    history = promote.history(root, "brick")
    assert history["kind"].tolist() == ["promotion", "promotion", "rollback"]
    assert history["by"].tolist() == ["Ada", "Bo", "Cy"] and set(history["status"]) == {"done"}
    assert len(api.runs("ingest-and-retrain")) == 1  # one landing, one run
