"""Photographs of one part are told from those of two, and kept together; so a threshold holds for the parts to come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features import normality
from components.features.normality import Normality, cross_fitted
from components.features.parts import same_part, spread
from components.features.subspace import Common

CPU = torch.device("cpu")
SHOTS = 4


def photographed(count: int, seed: int) -> torch.Tensor:
    """Residuals (count * SHOTS, 5, 8, 8): each part has a grain of its own, each photograph some noise."""
    generator = torch.Generator().manual_seed(seed)
    always = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(7))
    grain = torch.randn(count, 5, 8, 8, generator=generator).repeat_interleave(SHOTS, 0)
    return always + grain + 0.5 * torch.randn(count * SHOTS, 5, 8, 8, generator=generator)


def gram(images: torch.Tensor) -> torch.Tensor:
    return Common.of([images]).gram


def test_photographs_of_one_part_are_found_whatever_all_have_in_common():
    images = photographed(20, seed=0)
    wanted = torch.arange(20).repeat_interleave(SHOTS)
    assert torch.equal(same_part(gram(images)), wanted)
    assert torch.equal(same_part(gram(images * 1e-3)), wanted)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    found = same_part(gram(images[order]))
    assert all(len(found[wanted[order] == part].unique()) == 1 for part in range(20))


def test_images_of_different_parts_are_different_parts():
    assert torch.equal(same_part(gram(photographed(40, seed=2)[::SHOTS])), torch.arange(40))
    assert torch.equal(same_part(torch.zeros(6, 6)), torch.arange(6))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=120), st.integers(2, 7))
@settings(max_examples=200, deadline=None)
def test_a_part_is_in_one_fold_and_folds_are_as_equal_as_that_allows(part, folds):
    labels = torch.tensor(part)
    fold = spread(labels, folds)
    sizes = torch.bincount(labels)
    share = len(part) / folds
    for each in labels.unique():
        together = fold[labels == each]
        assert len(together.unique()) == 1 or sizes[each] > share
    loads = torch.bincount(fold, minlength=folds)
    kept = sizes[sizes <= share]
    assert loads.max() - loads.min() <= max(int(kept.max()) if len(kept) else 1, 1)
    assert (loads[: int(fold.max()) + 1] > 0).all()


def test_images_of_different_parts_take_turns():
    assert torch.equal(spread(torch.arange(23), 5), torch.arange(23) % 5)
    assert torch.equal(spread(torch.zeros(23, dtype=torch.long), 5), torch.arange(23) % 5)


def scores(model: Normality, images: torch.Tensor) -> np.ndarray:
    return model.maps(images, ["mahalanobis"])["mahalanobis"].flatten(1).amax(1).numpy()


@pytest.mark.parametrize("together", [True, False])
def test_held_out_images_score_like_new_parts_only_when_their_siblings_are_held_out_too(monkeypatch, together):
    monkeypatch.setattr(normality, "COARSE", 3)
    images = photographed(60, seed=3)
    common = Common.of([images])
    part = same_part(common.gram) if together else torch.arange(len(images))
    fold = spread(part, 5)
    whole, without = cross_fitted(images, common, fold, CPU)
    held_out = np.concatenate([scores(model, images[fold == k]) for k, model in enumerate(without)])
    new = scores(whole, photographed(60, seed=4))
    passed = (new > np.quantile(held_out, 0.95)).mean()
    assert 0.01 < passed < 0.12 if together else passed > 0.9
