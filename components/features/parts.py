"""Which normal images show one part, so that an image is not judged by what photographs of the same part explain.

Two photographs of a part share what no two parts share: its grain, its print, its scratches. In the residuals of their
features, less the mean of all normal images, they correlate far more than those of different parts (docs/adr/0006).
What is chained by correlations above ALIKE is one part.
"""

from __future__ import annotations

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

ALIKE = 0.4


def same_part(gram: Tensor, most: float) -> Tensor:
    """Which part, 0, 1, ..., each of N images with these inner products (N, N) shows, numbered as they first appear.

    No part has more than `most` images. What is chained of more is a lot, a lamp or a pose: its parts are looked for in
    the same way among its images, less their own mean; where they do not come apart, each is a part of its own.
    """
    parts: list[Tensor] = []
    todo = [torch.arange(len(gram))]
    while todo:
        images = todo.pop()
        groups = chained(gram[images][:, images])
        if len(groups) == 1 and len(images) > most:
            groups = list(torch.arange(len(images)).split(1))
        for group in groups:
            (parts if len(group) <= most else todo).append(images[group])
    labels = torch.empty(len(gram), dtype=torch.long)
    for part, images in enumerate(sorted(parts, key=lambda images: int(images[0]))):
        labels[images] = part
    return labels


def chained(gram: Tensor) -> list[Tensor]:
    """The groups of images, each by its places in ascending order, that correlations above ALIKE chain together."""
    means = gram.mean(0)
    centred = gram - means - means[:, None] + means.mean()
    length = centred.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    count, labels = connected_components((centred > ALIKE * length * length[:, None]).numpy(), directed=False)
    found = torch.from_numpy(labels)
    return [(found == label).nonzero()[:, 0] for label in range(count)]


def folds_of(part: Tensor, folds: int) -> Tensor:
    """The fold, 0..folds - 1, of each of N images: the images of a part in one fold, and folds as equal as that allows;
    of images that are all of different parts, in turn."""
    sizes = torch.bincount(part)
    load, fold_of = torch.zeros(folds), torch.zeros(len(sizes), dtype=torch.long)
    for one in sizes.argsort(descending=True, stable=True):
        fold_of[one] = load.argmin()
        load[fold_of[one]] += sizes[one]
    return fold_of[part]
