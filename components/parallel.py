"""Several processes train one model: each takes its share of every batch, and all take the same step.

`KINTSUGI_PROCESSES=4` makes a training stage start three more of itself; under torchrun it joins those that torchrun
started. The setting's batch is the whole batch, so the result is that of one process but for the order in which floats
are added, and for dropout, which every process draws for its own share. In a process of its own, each function here
gives back what it was given.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.device import find_device
from components.errors import UserError

PROCESSES = "KINTSUGI_PROCESSES"
MEETING = "KINTSUGI_MEETING"  # the file by which the processes find each other; torchrun has its own ways
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
PATIENCE = timedelta(minutes=10)  # for a process that has not come to the same point


@contextmanager
def together(stage: Sequence[str]) -> Iterator[None]:
    """Be one of the processes that train `stage` (its name and category) while the block runs.

    The first of them starts and ends the others, which follow it into its grave however it ends. UserError when the
    variable is no count, or there are fewer devices than processes.
    """
    started = MEETING in os.environ or dist.is_torchelastic_launched()
    count = int(os.environ["WORLD_SIZE"]) if started else _asked()
    if count == 1:
        yield
        return
    rank, local = (int(os.environ[name]) if started else 0 for name in ("RANK", "LOCAL_RANK"))
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if started else count
    device = find_device().type
    if device == "mps" or (device == "cuda" and torch.cuda.device_count() < here):
        raise UserError(f"{here} processes need as many CUDA devices, or none at all; set {PROCESSES} accordingly")
    if device == "cuda":
        torch.cuda.set_device(local)
    torch.set_num_threads(max(torch.get_num_threads() // here, 1))
    if MEETING in os.environ:
        threading.Thread(target=_follow, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="kintsugi-meeting-") as folder:
        meeting = os.environ.get(MEETING) or ("env://" if started else (Path(folder) / "meeting").as_uri())
        others = [] if started else [_start(stage, other, count, meeting) for other in range(1, count)]
        try:
            dist.init_process_group(BACKENDS[device], meeting, PATIENCE, rank=rank, world_size=count)
            yield
            dist.destroy_process_group()  # after a failure it might wait for those that are gone
        finally:
            for other in others:
                assert other.stdin is not None
                other.stdin.close()
                other.wait()


def _asked() -> int:
    text = os.environ.get(PROCESSES, "1")
    if not text.isdecimal() or not int(text):
        raise UserError(f"{PROCESSES} is '{text}'; it must be a count of processes, 1 or more")
    return int(text)


def _start(stage: Sequence[str], rank: int, count: int, meeting: str) -> subprocess.Popen[bytes]:
    place = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) | {MEETING: meeting}
    place |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
    command = [sys.executable, "-m", "components", *stage]
    return subprocess.Popen(command, env=os.environ | place, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def _follow() -> None:
    """End when the first process does: it holds the other end of this process's input."""
    os.read(0, 1)
    os._exit(1)


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 is the one that writes and speaks."""
    return dist.get_rank() if size() > 1 else 0


def share(batch: np.ndarray) -> np.ndarray:
    """This process's part of a batch, every size()-th of it; UserError when it cannot be shared equally."""
    if len(batch) % size():
        raise UserError(
            f"a batch of {len(batch)} has no {size()} equal parts; set {PROCESSES} or the batch accordingly"
        )
    return batch[rank() :: size()]


def total(x: Tensor) -> Tensor:
    """The sum over all processes, in place; the same bits in each."""
    if size() > 1:
        dist.all_reduce(x)
    return x


def whole(x: Tensor) -> Tensor:
    """The batch of which each process has its `share`, in the batch's order."""
    if size() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts, 1).flatten(0, 1)


def agreed(x: Tensor) -> Tensor:
    """The first process's tensor, in place."""
    if size() > 1:
        dist.broadcast(x, 0)
    return x


def variance(x: Tensor) -> Tensor:
    """The variance of all elements of the whole batch, as `Tensor.var`."""
    if size() == 1:
        return x.var()
    mean = total(x.mean()) / size()
    return total((x - mean).square().sum()) / (x.numel() * size() - 1)


def mean(values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the processes; the same bits in each, so that all decide alike."""
    if size() == 1:
        return values
    numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=find_device())
    return dict(zip(values, (total(numbers) / size()).tolist(), strict=True))


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes: that of the whole batch, where a loss is a mean."""
    if size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    averaged = total(torch.cat([gradient.flatten() for gradient in gradients])) / size()
    for gradient, part in zip(gradients, averaged.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def draw_apart(seed: int, step: int) -> None:
    """Give every process but the first a random state of its own for this step: dropout of one share is not that of
    another. The first keeps its state, which is in the checkpoint."""
    if rank():
        torch.manual_seed(int(np.random.SeedSequence([seed, step, rank()]).generate_state(1, np.uint64)[0]))
