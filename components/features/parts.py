"""Which normal images show one part, so that an image is not judged by what photographs of the same part explain.

Two photographs of a part share what no two parts share: its grain, its print, its scratches. In the residuals of their
features, less the mean of all normal images, they correlate by .5 to .85, those of different parts by .3 at the most
(docs/adr/0006). What is chained by correlations above ALIKE is one part.
"""

from __future__ import annotations

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

ALIKE = 0.4


def same_part(gram: Tensor) -> Tensor:
    """Which part, 0, 1, ..., each of N images with these inner products (N, N) shows, numbered as they first appear."""
    means = gram.mean(0)
    centred = gram - means - means[:, None] + means.mean()
    length = centred.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    _, labels = connected_components((centred > ALIKE * length * length[:, None]).numpy(), directed=False)
    return torch.from_numpy(labels).long()


def spread(part: Tensor, folds: int) -> Tensor:
    """The fold, 0..folds - 1, of each of N images: the images of a part in one fold, and folds as equal as that allows;
    of images that are all of different parts, in turn.

    A part with more than its fold's share of the images is what all images show: its images are spread one by one.
    """
    sizes = torch.bincount(part)
    alone = sizes[part] * folds > len(part)
    groups = torch.where(alone, len(sizes) + torch.arange(len(part)), part)
    _, groups, sizes = groups.unique(return_inverse=True, return_counts=True)
    load, fold_of = torch.zeros(folds), torch.empty(len(sizes), dtype=torch.long)
    for group in sizes.argsort(descending=True, stable=True):
        fold_of[group] = load.argmin()
        load[fold_of[group]] += sizes[group]
    return fold_of[groups]
