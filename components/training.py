"""The one fit loop: steps, validation, early stop, checkpoints, progress.

A batch is a function of the seed and the step's number, never of a loader's state, and the random state is
part of the checkpoint: a killed run that resumes takes the same steps as one that was left alone.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from components import parallel

CHECKPOINT_SECONDS = float(os.environ.get("KINTSUGI_CHECKPOINT_SECONDS", "20"))
PROGRESS_SECONDS = 5.0
DIGEST = 32  # bytes of a sha256


@dataclass(frozen=True)
class Plan:
    """How long to train. `patience` counts validations without a better `watch`; 0 never stops early, and
    then the last weights are kept instead of the best."""

    name: str
    steps: int
    learning_rate: float
    validate_every: int
    seed: int
    patience: int = 0
    watch: str = "val_loss"


def batch_indices(seed: int, step: int, size: int, batch: int) -> np.ndarray:
    """`batch` places in 0..size-1 for this step: a fresh shuffle per epoch, read in order.

    Sorted, so that a file is read forwards.
    """
    per_epoch = max(size // batch, 1)
    order = np.random.default_rng([seed, step // per_epoch]).permutation(size)
    start = (step % per_epoch) * batch
    return np.sort(order[start : start + batch])


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up over the first 2 % (at most 100 steps), then a cosine to a twentieth."""
    warm = min(max(plan.steps // 50, 1), 100)
    if step < warm:
        return plan.learning_rate * (step + 1) / warm
    done = (step - warm) / max(plan.steps - warm, 1)
    return plan.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def fit(
    plan: Plan,
    model: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    validate: Callable[[], dict[str, float]],
    checkpoint: Path,
    key: str,
) -> pd.DataFrame:
    """Train `model` in place and return one row per validation: epoch, step, seconds, metrics.

    `loss_of(step)` gives the loss of this process's share of the batch and what to report of it; `validate()` runs in
    eval mode without gradients, on the same images in every process. The first process alone writes and speaks.
    A checkpoint with the same `key` is resumed, any other is ignored; the caller deletes it when its outputs stand.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    curves: list[dict[str, float]] = []
    best: dict[str, Any] = {"value": math.inf, "waited": 0, "weights": None}
    step, spent, sums = 0, 0.0, dict[str, list[float]]()
    saved = load_checkpoint(checkpoint, key)
    if saved:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["random"])
        if saved["random_cuda"]:
            torch.cuda.set_rng_state_all(saved["random_cuda"])
        step, spent, curves, best = saved["step"], saved["spent"], saved["curves"], saved["best"]
        sums = saved["sums"]  # since the last validation: without them the curve's next mean would be another one
        if parallel.rank() == 0:
            print(f"{plan.name} resumes at step {step}/{plan.steps} from its checkpoint", flush=True)
    started = told = kept = time.monotonic()
    first = step
    while step < plan.steps and not (plan.patience and best["waited"] >= plan.patience):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(plan, step)
        model.train()
        parallel.draw_apart(plan.seed, step)
        loss, report = loss_of(step)
        report = parallel.mean(report)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parallel.average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        for name, value in report.items():
            sums.setdefault(name, []).append(value)
        if step % plan.validate_every == 0 or step == plan.steps:
            model.eval()
            with torch.no_grad():
                metrics = parallel.mean(validate())
            means = {name: float(np.mean(values)) for name, values in sums.items()}
            sums = {}
            seconds = spent + time.monotonic() - started
            curves.append({"epoch": len(curves) + 1, "step": step, "seconds": round(seconds, 1)} | means | metrics)
            if plan.patience:
                _keep_best(best, metrics[plan.watch], model)
        now = time.monotonic()
        if parallel.rank() == 0 and (now - told > PROGRESS_SECONDS or step == plan.steps):
            told = now
            print(_progress(plan, step, (step - first) / (now - started), report), flush=True)
        if parallel.rank() == 0 and now - kept > CHECKPOINT_SECONDS:
            kept = now
            state = {"key": key, "model": model.state_dict(), "optimiser": optimiser.state_dict(),
                     "random": torch.get_rng_state(), "random_cuda": torch.cuda.get_rng_state_all(),
                     "step": step, "spent": spent + now - started,
                     "curves": curves, "best": best, "sums": sums}  # fmt: skip
            save_checkpoint(checkpoint, state)
    if best["weights"] is not None:
        model.load_state_dict(best["weights"])
    model.eval()
    return pd.DataFrame(curves)


def _keep_best(best: dict[str, Any], value: float, model: nn.Module) -> None:
    if value < best["value"]:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        best.update(value=value, waited=0, weights=weights)
    else:
        best["waited"] += 1


def _progress(plan: Plan, step: int, rate: float, report: dict[str, float]) -> str:
    left = (plan.steps - step) / max(rate, 1e-9)
    values = " ".join(f"{name}={value:.4g}" for name, value in report.items())
    return f"{plan.name} {step}/{plan.steps} ({step / plan.steps:.0%}) {rate:.2f} it/s {left:.0f} s left {values}"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside, then move: a kill between the two leaves the older checkpoint whole.

    The sha256 of what follows comes first. Bytes are made in memory: torch's own writer turns a full disk into an
    error that nobody recognises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    beside = path.with_suffix(".tmp")
    try:
        with beside.open("wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path, key: str) -> dict[str, Any] | None:
    """The state saved under `key`, or None. A damaged or foreign file is set aside with a word, not used.

    torch alone takes a file with a flipped bit for whole, hence the hash.
    """
    if not path.exists():
        return None
    try:
        whole = path.read_bytes()
        digest, content = whole[:DIGEST], whole[DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("its hash is another one")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # any damage: torch raises many types here
        print(
            f"checkpoint {path.name} cannot be read ({type(error).__name__}); starting from step 0",
            flush=True,
        )
        return None
    return state if state.get("key") == key else None
