"""Texture inspection (TI; Boettger and Ulrich 2016): a Gaussian mixture of compressed patches at every scale.

At each level of an image pyramid a patch is compressed by a fixed random projection (a convolution) to f, and

    map = -log sum_k w_k N(f; m_k, S_k)

Levels are standardised by their values on the training patches and averaged. B images of S x S pixels.
"""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.arrays import BATCH, to_tensor
from components.baselines.job import Baseline, Frame, Job, upsample
from components.baselines.settings import TextureMixture as Config

IMAGES = 128  # that the patches are drawn from
ROUNDS = 50  # of expectation maximisation at most
RIDGE = 1e-4  # added to variances: flat patches differ by the camera's noise at least


class TextureMixture(Baseline):
    """Buffers for L levels, K Gaussians, d dimensions: log_weights (L, K), means (L, K, d), precisions (L, K, d, d;
    Cholesky factors), usual and spread (L), projection (d, C, p, p)."""

    title = "texture mixture TI (Boettger and Ulrich 2016)"
    log_weights: Tensor
    means: Tensor
    precisions: Tensor
    usual: Tensor
    spread: Tensor
    projection: Tensor

    def __init__(self, frame: Frame, config: Config) -> None:
        super().__init__()
        self.frame, self.config = frame, config
        patch = config.patch + 1 - config.patch % 2
        numbers = frame.channels * patch * patch
        d, k = min(config.dimensions, numbers), config.components
        # The smallest level still has a few patches that do not overlap.
        self.levels = max(1, min(config.levels, int(math.log2(frame.size / (2 * patch))) + 1))
        self.register_buffer("projection", torch.randn(d, frame.channels, patch, patch) / math.sqrt(numbers))
        self.register_buffer("log_weights", torch.full((self.levels, k), -math.log(k)))
        self.register_buffer("means", torch.zeros(self.levels, k, d))
        self.register_buffer("precisions", torch.eye(d).repeat(self.levels, k, 1, 1))
        self.register_buffer("usual", torch.zeros(self.levels))
        self.register_buffer("spread", torch.ones(self.levels))

    def features(self, x: Tensor, level: int) -> Tensor:
        """Compressed patches (B, d, s, s) around each pixel of a level, s = S / 2^level."""
        small = F.avg_pool2d(x, 2**level) if level else x
        side = self.projection.shape[-1] // 2
        return F.conv2d(F.pad(small, (side,) * 4, mode="reflect"), self.projection)

    def surprise(self, f: Tensor, level: int) -> Tensor:
        """-log likelihood in nats, (N), of features (N, d) under the level's mixture."""
        terms = []
        for log_weight, mean, precision in zip(
            self.log_weights[level], self.means[level], self.precisions[level], strict=True
        ):
            squares = (f @ precision - mean @ precision).square().sum(1)
            terms.append(log_weight + precision.diagonal().log().sum() - 0.5 * squares)
        return 0.5 * f.shape[1] * math.log(2 * math.pi) - torch.stack(terms).logsumexp(0)

    @torch.no_grad()
    def fit(self, job: Job) -> float:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        started, rng = time.monotonic(), np.random.default_rng(job.seed)
        images = job.draw(IMAGES)
        for level in range(self.levels):
            drawn, share = [], math.ceil(self.config.patches / len(images))
            for i in range(0, len(images), BATCH):
                for f in self.features(to_tensor(images[i : i + BATCH], job.white, job.device), level):
                    flat = f.flatten(1).t().cpu()
                    drawn.append(flat[torch.from_numpy(rng.permutation(len(flat))[:share])])
            sample = torch.cat(drawn)
            mixture = GaussianMixture(
                min(self.config.components, len(sample)), reg_covar=RIDGE, max_iter=ROUNDS, random_state=job.seed,
                init_params="k-means++",
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of a fit say nothing here
                mixture.fit(sample.double().numpy())
            # Fewer Gaussians than asked for (few patches): the rest keep a weight of nothing.
            k = mixture.n_components
            self.log_weights[level] = -torch.inf
            self.log_weights[level, :k] = torch.from_numpy(mixture.weights_).clamp_min(1e-12).log()
            self.means[level, :k] = torch.from_numpy(mixture.means_).float()
            self.precisions[level, :k] = torch.from_numpy(mixture.precisions_cholesky_).float()
            usual = self.surprise(sample.to(job.device), level)
            self.usual[level], self.spread[level] = usual.mean(), usual.std().clamp_min(1e-3)
            print(f"{job.name} level {level + 1}/{self.levels}: {len(sample)} patches", flush=True)
        return time.monotonic() - started

    @torch.no_grad()
    def maps(self, x: Tensor) -> np.ndarray:
        total = torch.zeros(len(x), self.frame.size, self.frame.size, device=x.device)
        for level in range(self.levels):
            f = self.features(x, level)
            flat = self.surprise(f.permute(0, 2, 3, 1).flatten(0, 2), level)
            surprise = flat.view(len(x), *f.shape[2:])
            total += upsample((surprise - self.usual[level]) / self.spread[level], self.frame.size)
        return (total / self.levels).cpu().numpy()
