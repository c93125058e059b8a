"""Which normal images show one part, so that an image is not judged by what photographs of the same part explain.

Two photographs of a part share what no two parts share: its grain, its print, its scratches. Their residuals, less the
mean of all normal images, correlate far more than those of different parts (docs/adr/0006). What is chained by
correlations above ALIKE is one part; where that chains too many, by higher ones.
"""

from __future__ import annotations

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

ALIKE = 0.4
STEP, HIGHEST = 0.1, 0.95


def same_part(gram: Tensor, most: float) -> Tensor:
    """Which part, 0, 1, ..., each of N images with these inner products (N, N) shows, numbered as they first appear.

    No part has more than `most` images, or one. What is chained of more is a lot, a lamp or a pose: its parts are
    looked for in the same way among its images, less their own mean; where all of them are chained again, by higher
    correlations. Images that are alike to the last are parts of their own.
    """
    most, parts = max(most, 1), list[Tensor]()
    todo = [(torch.arange(len(gram)), ALIKE)]
    while todo:
        images, limit = todo.pop()
        groups = chained(gram[images][:, images], limit)
        if len(groups) == 1 and len(images) > most:
            if limit + STEP <= HIGHEST:
                todo.append((images, limit + STEP))
            else:
                parts += images.split(1)
            continue
        for group in groups:
            if len(group) <= most:
                parts.append(images[group])
            else:
                todo.append((images[group], limit))
    labels = torch.empty(len(gram), dtype=torch.long)
    for part, images in enumerate(sorted(parts, key=lambda images: int(images[0]))):
        labels[images] = part
    return labels


def chained(gram: Tensor, limit: float) -> list[Tensor]:
    """The groups of images, each by its places in ascending order, that correlations above the limit chain together."""
    means = gram.mean(0)
    centred = gram - means - means[:, None] + means.mean()
    length = centred.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    count, labels = connected_components((centred > limit * length * length[:, None]).numpy(), directed=False)
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
