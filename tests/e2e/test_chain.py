"""The real chain, tiny: a folder of normal images becomes a gated model; what changed and only that is stale.

Real stages, DVC, Prefect and MLflow through the command line, at 64 x 64 pixels and a few dozen steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy import ndimage

from flows.plan import make_plan
from tests.tiny import edit

pytestmark = pytest.mark.slow

TINY = {
    "dataset": {"size": 64, "val_fraction": 0.2, "calib_fraction": 0.25},
    "augment": {"images": 80},
    "vqvae": {
        "channels": 16,
        "residual_blocks": 1,
        "codebook_size": 32,
        "code_dim": 8,
        "downsample": 4,
        "steps": 150,
        "batch": 16,
    },
    "prior": {"channels": 16, "blocks": 1, "residual_layers": 1, "steps": 150, "batch": 16},
    "calibrate": {"etas": [0.0005, 0.005], "negatives": 6, "min_area": 0.004},
}


def stripes(rng: np.random.Generator) -> np.ndarray:
    """A part anybody could tell: grey stripes at a free phase, a little noise."""
    rows = np.sin(np.arange(80)[:, None] / 3 + rng.uniform(0, 6)) * 60 + 120
    noise = ndimage.gaussian_filter(rng.standard_normal((80, 80)), 1) * 8
    return np.clip(rows + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def tiny(workspace: Path) -> Path:
    """A workspace with tiny settings, no category yet, and 60 normal photographs beside it."""

    def shrink(settings):
        for section, values in TINY.items():
            settings[section].update(values)

    edit(workspace / "settings" / "standard.yaml", shrink)
    edit(workspace / "params.yaml", lambda params: params.update(categories=[], overrides={}))
    # What gates should ask of a toy is not the question here; that they are asked is.
    limits = {"minimum": {"image_auroc": 0.5}, "maximum": {"normal_false_positive_rate": 0.9}, "tolerance": {}}
    edit(workspace / "mlflow" / "gates.yaml", lambda gates: gates.update(synthetic=limits, test=limits))
    photographs = workspace.parent / "photographs"
    photographs.mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        cv2.imwrite(str(photographs / f"part {number:02d}.png"), stripes(rng))
    return workspace


def kintsugi(root: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "kintsugi"
    done = subprocess.run([program, *arguments], cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def hashes(root: Path) -> dict[str, str]:
    lock = YAML(typ="safe").load((root / "dvc.lock").read_text())
    return {name: stage["outs"][0]["md5"] for name, stage in lock["stages"].items()}


def ran(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    results = json.loads(done.stdout)
    return {stage["stage"]: stage["state"] for result in results for stage in result["stages"]}


def test_a_folder_of_normal_images_goes_the_whole_way(tiny: Path) -> None:
    kintsugi(tiny, "import", "folder", str(tiny.parent / "photographs"), "--category", "stripes")
    first = ran(kintsugi(tiny, "run", "stripes", "--json"))
    assert set(first.values()) == {"ran"}, first
    metrics = json.loads((tiny / "artifacts" / "stripes" / "evaluate" / "metrics.json").read_text())
    assert metrics["evaluated_on"] == "synthetic"
    assert "no real defect is known" in metrics["protocol"]
    assert metrics["pixel_auroc"] > 0.7
    status = json.loads(kintsugi(tiny, "status", "--json").stdout)
    assert "stripes" in json.dumps(status)

    # Nothing changed: nothing is to be done, and everything is skipped.
    assert not make_plan(tiny, ["stripes"]).stale
    assert "ran" not in ran(kintsugi(tiny, "run", "stripes", "--json")).values()

    # A setting of the prior makes the prior stale, and nothing above it.
    settings = (tiny / "params.yaml").read_bytes()
    edit(tiny / "params.yaml", lambda p: p["overrides"]["stripes"]["prior"].update(steps=140))
    assert set(make_plan(tiny, ["stripes"]).stale) == {"train_prior@stripes"}
    (tiny / "params.yaml").write_bytes(settings)

    # A person promotes; the model inspects, and the trail holds.
    kintsugi(tiny, "promote", "stripes", "--by", "Ada", "--why", "first model of this line")
    painted = stripes(np.random.default_rng(5))
    painted[30:52, 30:52] = 0
    cv2.imwrite(str(tiny / "painted.png"), painted)
    (tiny / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = kintsugi(tiny, "inspect", "stripes", "painted.png", "broken.png", "--out", "seen", "--json", code=1)
    table = json.loads(done.stdout)
    assert table[0]["verdict"] == "defective"
    assert "broken.png" in done.stderr and done.stderr.count("\n") == 1
    heat = cv2.imread(str(tiny / "seen" / "painted_heat.png"))
    assert heat.shape[:2] == (80, 80)
    audit = json.loads(kintsugi(tiny, "audit", "stripes", "--json").stdout)
    assert {link["status"] for link in audit["links"]} == {"verified"}
    weights = tiny / "artifacts" / "stripes" / "package" / "model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    broken = json.loads(kintsugi(tiny, "audit", "stripes", "--json", code=1).stdout)
    assert any(link["status"] == "differs" and "package" in link["name"] for link in broken["links"])
