"""Photographs of one part are told from those of two, and kept together; so a threshold holds for the parts to come."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components import folds
from components.arrays import BATCH
from components.detector import Detector
from components.errors import UserError
from components.normality import model as normality
from components.normality.model import Normality, cross_fitted
from components.normality.parts import folds_of, same_part
from components.normality.subspace import Common

CPU = torch.device("cpu")
SHOTS = 4
MOST = 16


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
    assert torch.equal(same_part(gram(images), MOST), wanted)
    assert torch.equal(same_part(gram(images * 1e-3), MOST), wanted)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    found = same_part(gram(images[order]), MOST)
    assert len(found.unique()) == 20
    assert all(len(found[wanted[order] == part].unique()) == 1 for part in range(20))


@pytest.mark.parametrize("offset", [0.8, 1.3, 3.0])
def test_parts_are_told_apart_within_their_lots(offset):
    lots = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(11)).repeat_interleave(40, 0)
    images = photographed(20, seed=5) + offset * lots
    found = same_part(gram(images), MOST)
    if offset > 1:
        assert torch.equal(found, torch.arange(20).repeat_interleave(SHOTS))
        assert torch.equal(same_part(gram(images), 100), torch.arange(2).repeat_interleave(40)), "lots, if they may be"
    assert all(len(found[i : i + SHOTS].unique()) == 1 for i in range(0, 80, SHOTS))


@pytest.mark.parametrize("strength", [1.5, 2.5])
def test_parts_are_told_apart_whatever_all_parts_vary_in(strength):
    draw = torch.Generator().manual_seed(13)
    ways = torch.randn(4, 5 * 8 * 8, generator=draw)
    told = (torch.randn(60, 4, generator=draw) @ ways / 2).view(60, 5, 8, 8).repeat_interleave(SHOTS, 0)
    found = same_part(gram(photographed(60, seed=5) + strength * told), 48)
    assert all(len(found[i : i + SHOTS].unique()) == 1 for i in range(0, 240, SHOTS))
    assert len(found.unique()) > 20


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_images_are_parts_too(count):
    assert torch.equal(same_part(gram(photographed(1, seed=9)[:count]), count / 5), torch.arange(count))


def test_one_part_that_is_all_there_is_tells_its_photographs_apart():
    assert torch.equal(same_part(gram(photographed(1, seed=6).repeat(5, 1, 1, 1) + torch.randn(20, 5, 8, 8)), 4),
                       torch.arange(20))  # fmt: skip


def test_images_of_different_parts_are_different_parts():
    assert torch.equal(same_part(gram(photographed(40, seed=2)[::SHOTS]), 8), torch.arange(40))
    assert torch.equal(same_part(torch.zeros(6, 6), 1.2), torch.arange(6))


@given(st.integers(0, 10**6), st.integers(2, 60), st.floats(1, 20))
@settings(max_examples=50, deadline=None)
def test_no_part_has_more_images_than_it_may(seed, count, most):
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    found = same_part(vectors @ vectors.T, most)
    assert torch.bincount(found).max() <= most
    assert torch.equal(found.unique(), torch.arange(int(found.max()) + 1))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=120), st.integers(2, 7))
@settings(max_examples=200, deadline=None)
def test_a_part_is_in_one_fold_and_folds_are_as_equal_as_that_allows(part, folds):
    labels = torch.tensor(part)
    fold = folds_of(labels, folds)
    assert all(len(fold[labels == each].unique()) == 1 for each in labels.unique())
    loads = torch.bincount(fold, minlength=folds)
    assert loads.max() - loads.min() <= torch.bincount(labels).max()
    assert (loads[: int(fold.max()) + 1] > 0).all()


def test_images_of_different_parts_take_turns():
    assert torch.equal(folds_of(torch.arange(23), 5), torch.arange(23) % 5)


@pytest.mark.parametrize(("parts", "together"), [("new", True), ("known", False)])
def test_the_setting_says_whether_photographs_of_one_part_are_held_out_together(monkeypatch, parts, together):
    images = photographed(12, seed=8)
    monkeypatch.setattr(normality, "COARSE", 3)
    monkeypatch.setattr(folds, "residuals", lambda _detector, some, *_: some.split(BATCH))
    network = torch.nn.Linear(1, 1)
    network.latent = "features"
    detector = Detector(network, SimpleNamespace(grid=8), 0.0, True, ())
    normals, plain = images[::SHOTS].half(), torch.cat([images[i::SHOTS] for i in range(1, SHOTS)]).half()
    whole, held_out = folds.fitted(detector, normals, plain, 255.0, parts, "test")
    assert whole.normality is not None and len(held_out.detectors) == folds.FOLDS
    assert len(held_out.fold) == 12 and held_out.parts == (12 if together else None)
    siblings = torch.cat([Common.of([normals.float()]).vectors, Common.of([plain.float()]).vectors])
    for image, fold in enumerate(held_out.fold):
        said = held_out.detectors[fold].normality.subspace.components.float() @ siblings[image]
        explained = float((said.norm() / siblings[image].norm()).square())
        assert explained < 0.6 if together else explained > 0.7


@pytest.mark.parametrize(("count", "enough"), [(4, False), (5, True)])
def test_too_few_images_to_be_judged_by_the_others_are_told(monkeypatch, count, enough):
    images = torch.rand(count, 6, 8, 8).half()
    monkeypatch.setattr(folds, "residuals", lambda _detector, some, *_: some.split(BATCH))
    network = torch.nn.Linear(1, 1)
    detector = Detector(network, SimpleNamespace(grid=8), 0.0, True, ())
    if enough:
        assert folds.fitted(detector, images[1:], images[:1], 255.0, "known", "test")[0].normality is not None
        return
    with pytest.raises(UserError, match="4 normal images are too few to judge each by the others; add some"):
        folds.fitted(detector, images[1:], images[:1], 255.0, "known", "test")


def scores(model: Normality, images: torch.Tensor) -> np.ndarray:
    return model.maps(images, ["mahalanobis"])["mahalanobis"].flatten(1).amax(1).numpy()


@pytest.mark.parametrize("together", [True, False])
def test_held_out_images_score_like_new_parts_only_when_their_siblings_are_held_out_too(monkeypatch, together):
    monkeypatch.setattr(normality, "COARSE", 3)
    images = photographed(60, seed=3)
    common = Common.of([images])
    part = same_part(common.gram, len(images) / 5) if together else torch.arange(len(images))
    fold = folds_of(part, 5)
    whole, without = cross_fitted(images, common, fold, CPU)
    held_out = np.concatenate([scores(model, images[fold == k]) for k, model in enumerate(without)])
    new = scores(whole, photographed(60, seed=4))
    passed = (new > np.quantile(held_out, 0.95)).mean()
    assert 0.01 < passed < 0.12 if together else passed > 0.9
