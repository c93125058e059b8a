"""Growth: peak memory and time per image of each step, with 1,000 and with 10,000 training images.

    PYTHONPATH=. nice -n 10 python benchmarks/growth.py [--images 1000 10000] [--steps import augment ...]

Pictures come from a seed. Every step is a process of its own. `RSS` is the kernel's peak of resident memory (ru_maxrss:
heap, libraries and mapped files together), `anonymous` the largest RssAnon of /proc, looked at every 10 ms: what a
process cannot give back without swapping. Times are CPU times of the step's work without its imports, children
included, so that other programs disturb them little; trainings take a fixed number of steps, and their time is per
image of a batch. Networks are small, which makes memory that grows with the images a larger share of the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ruamel.yaml import YAML

from tests.artifacts_fixture import make_workspace

CATEGORY = "brick"
SMALL = {
    "vqvae": {"channels": 16, "residual_blocks": 1, "steps": 30},
    "prior": {"channels": 16, "blocks": 1, "residual_layers": 1, "steps": 30, "patience": 0},
    "calibrate": {"etas": [0.0005], "max_replaced": 0.99, "negatives": 8},
}  # fmt: skip
BATCH = 16
STAGES = ("augment", "train_vqvae", "extract_codes", "train_prior", "calibrate")
WORK = {
    "import": "importers.import_folder(root / 'given', root / 'data', 'brick', settings.load_dataset(root))",
    "manifest": "build_manifest(root / 'data/brick')",
    "validate": "data.validate_manifest(root, 'brick', build_manifest(root / 'data/brick'), found)",
    "dvc add": "versioning.add_data(root)",
} | {stage: f"importlib.import_module(MODULES['{stage}']).run(root, settings.load(root, 'brick'))" for stage in STAGES}
# What a step needs is imported before the clock starts; Great Expectations counts, it is imported where it is used.
IMPORTS = {
    "import": "from components.dataset import importers",
    "manifest": "from components.dataset.manifest import build_manifest",
    "validate": "from flows import data; from components.dataset.manifest import build_manifest; "
                "found = settings.load_dataset(Path.cwd())",
    "dvc add": "from flows.adapters import versioning",
} | {stage: f"import torch; from components.stage import MODULES; importlib.import_module(MODULES['{stage}']); "
            "torch.manual_seed(0)" for stage in STAGES}  # fmt: skip
CHILD = """
import importlib, json, os, sys
from pathlib import Path
from components import settings
{imports}
root = Path.cwd()
before = os.times()
{work}
after = os.times()
print("CPU", sum(after[:4]) - sum(before[:4]))
"""


@dataclass(frozen=True)
class Cost:
    """Of one step: peak memory in MB, resident and anonymous, and CPU seconds of its work."""

    rss: float
    anonymous: float
    cpu: float


def pictures(folder: Path, count: int, side: int) -> None:
    """Smooth random pictures as PNG, a few kB each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(40, 216, (6, 6, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:05}.png"), cv2.resize(small, (side, side)))


def workspace(root: Path, count: int, side: int) -> Path:
    """A workspace with small networks and the pictures in given/."""
    make_workspace(root)
    (root / ".dvc" / "tmp").mkdir()
    path = root / "params.yaml"
    params: Any = YAML(typ="safe").load(path.read_text())
    params["overrides"][CATEGORY] = SMALL
    YAML().dump(params, path)
    pictures(root / "given", count, side)
    return root


def anonymous(pid: int) -> float:
    """RssAnon of a process and its children now, in MB; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
    return sum(own) / 1024 + sum(anonymous(int(child)) for child in children)


def measure(root: Path, step: str) -> Cost:
    """Run one step in a process of its own; RuntimeError with what it said when it fails."""
    code = CHILD.format(imports=IMPORTS[step], work=WORK[step])
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen([sys.executable, "-P", "-c", code], cwd=root, stdout=said, stderr=subprocess.STDOUT)
        most = 0.0
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            most = max(most, anonymous(child.pid))
            time.sleep(0.01)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().splitlines()
    if child.returncode:
        raise RuntimeError(f"{step}: " + "\n".join(lines[-5:]))
    cpu = next(float(line.split()[1]) for line in reversed(lines) if line.startswith("CPU "))
    return Cost(usage.ru_maxrss / 1024, most, cpu)


def per_image(step: str, cost: Cost, count: int) -> float:
    """CPU milliseconds per image that the step looked at."""
    looked = SMALL[step.removeprefix("train_")]["steps"] * BATCH if step.startswith("train_") else count
    return 1000 * cost.cpu / looked


def table(found: dict[int, dict[str, Cost]]) -> str:
    """Markdown: a row per step, a column per measure and number of images, the last over the first."""
    counts = list(found)
    heads = [f"{what}, {count:,}" for what in ("RSS MB", "anonymous MB", "CPU ms an image") for count in counts]
    lines = ["| step | " + " | ".join(heads) + " | RSS | anonymous | time |", "|---" * (len(heads) + 4) + "|"]
    for step in found[counts[0]]:
        costs = [found[count][step] for count in counts]
        times = [per_image(step, cost, count) for count, cost in zip(counts, costs, strict=True)]
        cells = [f"{cost.rss:.0f}" for cost in costs] + [f"{cost.anonymous:.0f}" for cost in costs]
        cells += [f"{value:.2f}" for value in times]
        ratios = [costs[-1].rss / costs[0].rss, costs[-1].anonymous / costs[0].anonymous, times[-1] / times[0]]
        lines.append(f"| {step} | " + " | ".join(cells) + " | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table; calibrate's time depends on its own settings and hardly on the number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--side", type=int, default=64, help="of a picture, in pixels")
    parser.add_argument("--steps", nargs="+", choices=list(WORK), default=list(WORK))
    options = parser.parse_args()
    found: dict[int, dict[str, Cost]] = {}
    for count in options.images:
        with tempfile.TemporaryDirectory() as scratch:
            root = workspace(Path(scratch) / "plant", count, options.side)
            found[count] = {}
            for step in options.steps:
                found[count][step] = measure(root, step)
                print(f"{count} {step}: {json.dumps(found[count][step].__dict__)}", file=sys.stderr, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
