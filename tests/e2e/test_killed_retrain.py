"""A real retraining, killed by SIGKILL at one moment after the other, ends as one that was left alone.

Real stages, DVC, Prefect and MLflow through the command line, at 64 x 64 pixels and a handful of steps. Each run goes
on where the one before it died.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from flows.adapters import registry, tracking, versioning
from tests.e2e.test_chain import kintsugi, stripes
from tests.tiny import edit

pytestmark = pytest.mark.slow

KILLER = Path(__file__).with_name("killer")
SMALL = {
    "dataset": {"size": 64, "val_fraction": 0.2, "calib_fraction": 0.25},
    "augment": {"images": 24},
    "vqvae": {
        "channels": 8, "residual_blocks": 1, "codebook_size": 16, "code_dim": 4, "downsample": 8,
        "steps": 12, "batch": 8,
    },
    "prior": {"channels": 8, "blocks": 1, "residual_layers": 1, "steps": 12, "batch": 8},
    "calibrate": {"etas": [0.0005, 0.005], "negatives": 2, "images": 6, "min_area": 0.004},
}  # fmt: skip
# Every stage in its turn, in one process that nobody kills.
ALONE = """
from components.__main__ import main
from components.stage import MODULES
for step in MODULES:
    assert main([step, "stripes"]) == 0, step
"""
STAGE, TRAINED = "artifacts/stripes", "checkpoints/stripes"
# The moments of each run. `run`: the program with all that it started. `self`: one process, as by the kernel when
# memory runs out; the run lives and tries again. `torn`: the same, inside of a write.
RUNS = (
    (f"open|{STAGE}/augment/summary.json|1|self", f"os.rename|{TRAINED}/train_vqvae.pt|4|run"),
    (f"os.rename|{TRAINED}/train_prior.pt|4|self", "subprocess.Popen|calibrate@stripes&--single-item|1|run"),
    (
        f"open|{STAGE}/calibrate/calibration.json|1|self",
        "open|dvc.lock&package@stripes|1|torn",
        "shutil.copyfile|mlartifacts|3|run",
    ),
)


@pytest.fixture
def small(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the category `stripes`, whose trainings write a checkpoint at every step."""
    edit(workspace / "settings/standard.yaml", lambda s: [s[name].update(values) for name, values in SMALL.items()])
    own = {name: {} for name in ("dataset", "augment", "vqvae", "prior", "calibrate", "evaluate")}
    edit(workspace / "params.yaml", lambda params: params.update(categories=["stripes"], overrides={"stripes": own}))
    limits = {"minimum": {"image_auroc": 0.0}, "maximum": {}, "tolerance": {}}
    edit(workspace / "mlflow/gates.yaml", lambda gates: gates.update(synthetic=limits, test=limits))
    monkeypatch.setenv("KINTSUGI_CHECKPOINT_SECONDS", "0")
    good = workspace / "data/stripes/train/good"
    good.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        cv2.imwrite(str(good / f"{number:02d}.png"), stripes(rng))
    versioning.add_data(workspace)
    return workspace


def run(root: Path, moments: tuple[str, ...]) -> None:
    """`kintsugi run`, killed at `moments`."""
    mark = root.parent / "killed"
    mark.unlink(missing_ok=True)
    path = os.pathsep.join([str(KILLER), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path, "KILL_AT": "\n".join(moments), "KILLED": str(mark)}
    program = Path(sys.executable).parent / "kintsugi"
    done = subprocess.run([program, "run", "stripes"], cwd=root, env=env, capture_output=True, text=True, timeout=600)
    assert mark.exists() and mark.read_text().splitlines() == list(moments), done.stderr
    assert done.returncode == -signal.SIGKILL, done.stderr


def results(root: Path) -> dict[str, object]:
    """Every file that the stages made, without what tells the time that it took (the page is full of it)."""
    found: dict[str, object] = {}
    artifacts = root / "artifacts/stripes"
    for path in sorted(path for path in artifacts.rglob("*") if path.is_file() and path.suffix != ".html"):
        name, content = path.relative_to(artifacts).as_posix(), path.read_bytes()
        if path.suffix == ".csv":
            found[name] = pd.read_csv(path).drop(columns="seconds", errors="ignore").to_csv()
        elif path.suffix == ".json":
            values = json.loads(content)
            found[name] = {key: value for key, value in values.items() if "second" not in key}
        else:
            found[name] = content
    return found


def test_killed_at_every_moment_it_ends_like_one_that_was_left_alone(small: Path) -> None:
    for moments in RUNS:
        run(small, moments)
        if f"{TRAINED}/train_vqvae.pt" in moments[-1]:
            assert (small / TRAINED / "train_vqvae.pt").is_file()  # the next run goes on from it
    kintsugi(small, "run", "stripes")
    assert not list((small / TRAINED).glob("*"))
    client = tracking.connect(small)
    (version,) = registry.versions(client, "staging.stripes")
    (experiment,) = [e for e in client.search_experiments() if e.name == "kintsugi/stripes"]
    (finished,) = client.search_runs([experiment.experiment_id])
    assert (version.run_id, finished.info.status) == (finished.info.run_id, "FINISHED")
    killed = results(small)

    subprocess.run([sys.executable, "-P", "-c", ALONE], cwd=small, check=True, capture_output=True)
    alone = results(small)
    assert killed.keys() == alone.keys()
    assert [name for name in alone if killed[name] != alone[name]] == []
