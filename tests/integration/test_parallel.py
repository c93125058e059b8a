"""Two processes that share every batch give the loss curve of one process with the whole batch.

Float32 throughout: bfloat16 rounds at the third digit, which would hide an error in what is averaged.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch.distributed as dist

from components import __main__ as stages
from components import training
from components.prior import train as prior
from components.vqvae import train as vqvae
from tests import tiny

FLOAT32 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # of a process of its own: without AVX512 no bfloat16
# Codes die and are drawn anew all the time; dropout is the one thing that is each process's own.
CHANGED = {
    "vqvae": {"steps": 20, "decay": 0.8, "revive_below": 0.5},
    "prior": {"steps": 12, "dropout": 0.0, "patience": 0},
}
# The same numbers are added in another order, so float32 differs in the seventh digit: 3e-6 at most where this was
# written. Statistics of half the batch, or sums where means should be, differ in the second.
TOLERANCE = 1e-4
# A vector as near to one code as to another may go to either, and codes that were drawn anew from neighbouring places
# lie close. One of the 256 codes that validate moves the perplexity by half a percent.
MOVED = {"perplexity": 0.02, "codes_used": 0.1}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which one process has trained both models."""
    root = tiny.make(tmp_path_factory.mktemp("alone") / "workspace", **CHANGED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        modest(patch)
        for stage in ("augment", "train_vqvae", "extract_codes", "train_prior"):
            assert stages.main([stage, "brick"]) == 0
    return root


def modest(patch: pytest.MonkeyPatch) -> None:
    """Float32, and one thread: on a busy machine two mostly wait for each other."""
    patch.setattr(stages.os, "cpu_count", lambda: 1)
    for module in (vqvae, prior):
        patch.setattr(module, "autocast", lambda device: contextlib.nullcontext())


def curves(root: Path, stage: str) -> pd.DataFrame:
    return pd.read_csv(root / "artifacts/brick" / stage / "curves.csv").drop(columns="seconds").astype(float)


def check(alone: Path, together: Path, stage: str) -> None:
    """Every number of every row of the two curves."""
    one, two = curves(alone, stage), curves(together, stage)
    assert list(one) == list(two) and len(one) == len(two)
    away = (two / one - 1).abs().max()
    assert all(away[name] < MOVED.get(name, TOLERANCE) for name in one), away


class KilledError(Exception):
    pass


def test_a_vqvae_that_two_processes_train_is_that_of_one_killed_or_not(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(alone, tmp_path / "two")
    shutil.rmtree(root / "artifacts/brick/train_vqvae")
    monkeypatch.chdir(root)
    modest(monkeypatch)
    for name, value in (FLOAT32 | {"KINTSUGI_PROCESSES": "2"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    save = training.save_checkpoint

    def killed(path: Path, state: dict) -> None:
        save(path, state)
        if state["step"] == 9:
            raise KilledError

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KilledError):
        stages.main(["train_vqvae", "brick"])
    dist.destroy_process_group()
    assert not (root / "artifacts/brick/train_vqvae").exists()
    monkeypatch.setattr(training, "save_checkpoint", save)
    assert stages.main(["train_vqvae", "brick"]) == 0
    check(alone, root, "train_vqvae")


def test_a_prior_that_torchrun_trains_is_that_of_one_process(alone: Path, tmp_path: Path) -> None:
    root = shutil.copytree(alone, tmp_path / "two")
    (root / "artifacts/brick/train_prior/curves.csv").unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "components", "train_prior", "brick"]  # fmt: skip
    env = os.environ | FLOAT32 | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train_prior@brick 12/12") == 1  # one of them speaks
    check(alone, root, "train_prior")
