"""Feature dictionary (CNNFD; Napoletano et al. 2018): how far a region lies from a dictionary of normal ones.

Features of a frozen ImageNet network at strides 8 and 16 (theirs: ResNet-18 on cropped patches; the dense
maps of EfficientNet-Lite0 see the same regions in one pass), k-means centres w of those of normal images, and

    map = mean over the m nearest words of |f - w|

Without the package that carries the network's weights the row is left out.
"""

from __future__ import annotations

import math
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.arrays import BATCH, to_tensor
from components.baselines.job import Baseline, Frame, Job, upsample
from components.baselines.settings import FeatureDictionary as Config
from components.features.backbone import pretrained
from components.scoremap import SMOOTHING

STRIDES = (8, 16)
IMAGES = 128  # that the features are drawn from
FAR = 1e4  # features are of the order of 1


class FeatureDictionary(Baseline):
    """The frozen network and its `words` (K, d)."""

    title = "feature dictionary CNNFD (Napoletano et al. 2018)"
    words: Tensor

    def __init__(self, frame: Frame, config: Config) -> None:
        super().__init__()
        self.frame, self.config = frame, config
        self.network = pretrained()
        with torch.no_grad():
            dimensions = self.eval().features(torch.zeros(1, frame.channels, frame.size, frame.size)).shape[1]
        self.register_buffer("words", torch.zeros(config.words, dimensions))

    def features(self, x: Tensor) -> Tensor:
        """(B, C, S, S) in [0, 1] to (B, d, S / 8, S / 8)."""
        by_stride = self.network(x)
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
