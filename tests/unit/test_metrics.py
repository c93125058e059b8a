"""Metrics against independent implementations and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import area_opening
from sklearn.metrics import f1_score

from components import metrics


def case(seed: int, ties: bool = False):
    rng = np.random.default_rng(seed)
    masks = np.stack([ndimage.gaussian_filter(rng.standard_normal((48, 48)), 3) > 0.08 for _ in range(4)])
    masks[0] = False
    maps = np.stack([ndimage.gaussian_filter(rng.standard_normal((48, 48)), 2) for _ in range(4)]) * 3 + masks
    return (np.round(maps, 1) if ties else maps).astype(np.float32), masks


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:invalid value")
def test_aupro_agrees_with_adeval(seed, monkeypatch):
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # adeval 1.1 asks for the old name
    adeval = pytest.importorskip("adeval")
    maps, masks = case(seed)
    evaluator = adeval.EvalAccumulator(float(maps.min()), float(maps.max()))
    evaluator.add_anomap_batch(maps, masks.astype(np.uint8))
    evaluator.add_image(maps.reshape(4, -1).max(1), masks.reshape(4, -1).any(1))
    theirs = evaluator.summary()
    assert metrics.aupro(maps, masks) == pytest.approx(theirs["p_aupro"], abs=2e-3)
    assert metrics.auroc(masks, maps) == pytest.approx(theirs["p_auroc"], abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", [False, True])
def test_aupro_agrees_with_a_trapezoid_over_every_threshold(seed, ties):
    maps, masks = case(seed, ties)
    found = [m[lab == k] for m, t in zip(maps, masks, strict=True)
             for lab, n in [ndimage.label(t, np.ones((3, 3)))] for k in range(1, n + 1)]  # fmt: skip
    levels = np.append(np.unique(maps)[::-1], -np.inf)
    fpr = np.array([0.0] + [(maps[~masks] >= t).mean() for t in levels])
    overlap = np.array([0.0] + [np.mean([(r >= t).mean() for r in found]) for t in levels])
    at_limit = np.interp(0.3, fpr, overlap)
    inside = fpr <= 0.3
    area = np.trapezoid(np.append(overlap[inside], at_limit), np.append(fpr[inside], 0.3)) / 0.3
    assert metrics.aupro(maps, masks) == pytest.approx(area, abs=5e-3 if ties else 1e-6)


def test_pro_by_hand():
    masks = np.zeros((1, 4, 6), bool)
    masks[0, 0, :4] = True  # four pixels, two covered
    masks[0, 3, 5] = True  # one pixel, covered
    marked = np.zeros((1, 4, 6), bool)
    marked[0, 0, :2] = marked[0, 3, 5] = marked[0, 2, 2] = True
    assert metrics.pro(marked, masks) == pytest.approx((0.5 + 1) / 2)


def test_a_diagonal_joins_regions():
    assert len(metrics.regions(np.eye(5, dtype=bool))) == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), area=st.integers(1, 300))
def test_area_score_is_the_maximum_of_the_area_opening(seed, area):
    score = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((32, 32)), 1.5)
    exact = area_opening(score, area, connectivity=2).max()
    assert metrics.area_score(score, area) == exact


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), area=st.integers(1, 60), level=st.floats(-0.5, 0.5))
def test_a_region_survives_just_where_the_score_exceeds_the_threshold(seed, area, level):
    score = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((24, 24)), 1.5)
    exact = area_opening(score, area, connectivity=2).max()
    assert metrics.keep_regions(score > level, area).any() == (exact > level)
    assert metrics.keep_regions(score > level, area).any() == (metrics.area_score(score, area) > level)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_f1_agrees_with_scikit_learn(pairs):
    labels, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    if labels.any() or predicted.any():
        assert metrics.f1(labels, predicted) == pytest.approx(f1_score(labels, predicted, zero_division=0))


def test_balanced_accuracy_is_the_mean_over_classes():
    assert metrics.balanced_accuracy([1, 1, 1, 0], [1, 1, 0, 0]) == pytest.approx((2 / 3 + 1) / 2)


def test_what_cannot_be_computed_is_nan_not_a_number():
    nothing = np.zeros((2, 4, 4), bool)
    maps = np.random.default_rng(0).random((2, 4, 4))
    for value in (
        metrics.aupro(maps, nothing),
        metrics.pro(nothing, nothing),
        metrics.auroc([0, 0], [1, 2]),
    ):
        assert np.isnan(value)
