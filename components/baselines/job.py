"""What every baseline is given and gives: a fitted network that turns images into score maps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from components.arrays import Images, to_tensor
from components.scoremap import distance
from components.training import Plan, batch_indices, fit

VALIDATIONS = 10  # over a whole training
HELD_OUT = 32  # images of `val` that a validation looks at


@dataclass(frozen=True)
class Frame:
    """What the images are: `channels` (1 or 3), `size` in pixels per side, and the bilateral filter (d, sigma
    colour, sigma space) of the method's own residual maps, which smooths the baselines' in the same way."""

    channels: int
    size: int
    bilateral: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """One training: normal images (N, S, S, C) as the augment stage stored them, where checkpoints go and the
    key of all that decides the result."""

    name: str  # METHOD@CATEGORY, for progress
    train: np.ndarray | Images
    val: np.ndarray | Images
    white: float
    seed: int
    device: torch.device
    checkpoints: Path
    key: str

    def batch(self, step: int, size: int) -> Tensor:
        """The step's images, float32 (B, C, S, S) in [0, 1]; the same for every method of one seed."""
        picks = batch_indices(self.seed, step, len(self.train), min(size, len(self.train)))
        return to_tensor(self.train[picks], self.white, self.device)

    def held_out(self) -> Tensor:
        """Normal images that no step sees, as in `batch`."""
        return to_tensor(self.val[:HELD_OUT], self.white, self.device)

    def draw(self, count: int) -> np.ndarray:
        """At most `count` training images, (n, S, S, C), spread over the whole array."""
        return self.train[np.unique(np.linspace(0, len(self.train) - 1, count).astype(int))]

    def fit(
        self,
        model: nn.Module,
        steps: int,
        learning_rate: float,
        loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
        validate: Callable[[], float],
        part: str = "",
    ) -> float:
        """Train by the one fit loop, resuming from its checkpoint; seconds spent, those before a kill included."""
        plan = Plan(f"{self.name}{part}", steps, learning_rate, max(steps // VALIDATIONS, 1), self.seed)
        path = self.checkpoints / f"{self.name.split('@')[0]}{part}.pt"
        curves = fit(plan, model, loss_of, lambda: {"val_loss": validate()}, path, self.key)
        return float(curves.seconds.iloc[-1])


class Baseline(nn.Module):
    """A method that `kintsugi compare` puts beside ours. `title` names it and its source."""

    title = ""
    frame: Frame

    @abstractmethod
    def fit(self, job: Job) -> float:
        """Learn from the job's normal images, in place; seconds spent."""

    @abstractmethod
    def maps(self, x: Tensor) -> np.ndarray:
        """Score maps float32 (B, S, S), higher is more anomalous, of images (B, C, S, S) in [0, 1]."""

    def residual(self, x: Tensor, y: Tensor) -> np.ndarray:
        """Eq. 6 between two batches of images, bilaterally filtered: what our own residual maps go through."""
        d, colour, space = self.frame.bilateral
        return np.stack([cv2.bilateralFilter(m.astype(np.float32), int(d), colour, space) for m in distance(x, y)])


def halvings(size: int, least: int) -> tuple[int, int]:
    """How often `size` can be halved without falling below `least` or leaving whole numbers, and what is left."""
    count = 0
    while size % 2 == 0 and size // 2 >= least:
        size //= 2
        count += 1
    return count, size


def upsample(maps: Tensor, size: int) -> Tensor:
    """(B, s, s) to (B, size, size), bilinear."""
    return nn.functional.interpolate(
        maps[:, None].float(), size=(size, size), mode="bilinear", align_corners=False
    ).squeeze(1)
