"""SIGKILL at random moments of every stage; the stage is run again and its results are compared hash for hash.

    PYTHONPATH=. python benchmarks/faults.py [MOMENTS]        default 50

The whole process group dies at once, as in a power cut: DVC, the stage, everything. A moment is drawn evenly from
the time that the stage took undisturbed, DVC's own work before and after it included. What a clock decided (seconds
in curves.csv, images per second) is not compared. Small settings: 32 x 32 pixels, 60 steps, a checkpoint per step.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from components.stage import STAGES
from flows import fixity
from flows.adapters import versioning
from tests import tiny

CATEGORY = "brick"
LONGER = {"vqvae": {"steps": 60}, "prior": {"steps": 60}}


@dataclass(frozen=True)
class Trial:
    """One kill: where, when (seconds after the start), whether the stage still ran, and what became of it."""

    stage: str
    moment: float
    alive: bool
    resumed: bool
    equal: bool


def prepare(root: Path, stages: Sequence[str] = STAGES) -> dict[str, tuple[float, dict[str, str]]]:
    """Make the workspace and run every stage undisturbed; stage -> seconds, results."""
    os.environ["KINTSUGI_CHECKPOINT_SECONDS"] = "0"
    tiny.make(root, **LONGER)
    versioning.add_data(root)
    found = {}
    for stage in stages:
        started = time.monotonic()
        versioning.repro_stage(root, f"{stage}@{CATEGORY}")
        found[stage] = (time.monotonic() - started, tiny.results(folder(root, stage)))
    return found


def folder(root: Path, stage: str) -> Path:
    """Where the stage writes."""
    return root / "artifacts" / CATEGORY / stage


def forget(root: Path, stage: str) -> None:
    """Make the stage one that has never run: no output, no lock entry, no run in DVC's cache."""
    shutil.rmtree(folder(root, stage), ignore_errors=True)
    shutil.rmtree(root / ".dvc" / "cache" / "runs", ignore_errors=True)
    yaml = YAML()
    lock = yaml.load((root / "dvc.lock").read_text())
    del lock["stages"][f"{stage}@{CATEGORY}"]
    yaml.dump(lock, root / "dvc.lock")


def trial(root: Path, stage: str, moment: float, reference: dict[str, str]) -> Trial:
    """Kill the stage `moment` seconds after its start, run it again, compare."""
    forget(root, stage)
    command = [sys.executable, "-P", "-m", "dvc", "repro", "--single-item", f"{stage}@{CATEGORY}"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        command, cwd=root, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(moment)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said: list[str] = []
    versioning.repro_stage(root, f"{stage}@{CATEGORY}", said.append)
    recorded = versioning.stage_outs(root, CATEGORY)[stage]
    whole = recorded == fixity.listing_md5(fixity.listing(folder(root, stage)))
    resumed = any("resumes at step" in line for line in said)
    return Trial(stage, moment, alive, resumed, whole and tiny.results(folder(root, stage)) == reference)


def run(
    root: Path, moments: int, seed: int = 0, stages: Sequence[str] = STAGES, kill: Sequence[str] = STAGES
) -> list[Trial]:
    """As many kills as `moments`, those stages in turn that `kill` names of the `stages` that have run."""
    draw, known = random.Random(seed), prepare(root, stages)
    trials = []
    for number in range(moments):
        stage = kill[number % len(kill)]
        seconds, reference = known[stage]
        done = trial(root, stage, draw.uniform(0, seconds), reference)
        trials.append(done)
        state = "killed" if done.alive else "had ended"
        print(f"{number + 1:3} {stage:14} {done.moment:5.2f} s {state:9} {'resumed ' if done.resumed else '        '}"
              f"{'equal' if done.equal else 'DIFFERS'}", flush=True)  # fmt: skip
    return trials


def main(moments: int) -> int:
    """Print a line per kill and a table; 1 when any result differed."""
    with tempfile.TemporaryDirectory() as scratch:
        trials = run(Path(scratch) / "workspace", moments)
    print("\n| stage | kills | while it ran | resumed from a checkpoint | equal |\n|---|---:|---:|---:|---:|")
    for stage in (*STAGES, "all"):
        own = [each for each in trials if stage in (each.stage, "all")]
        counts = [len(own), *(sum(getattr(each, name) for each in own) for name in ("alive", "resumed", "equal"))]
        print(f"| {stage} | {' | '.join(map(str, counts))} |")
    return 0 if all(each.equal for each in trials) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
