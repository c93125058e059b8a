"""What is marked of a score map: never nothing where the verdict says defect, and no wider for a stronger one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from components import metrics
from components.outline import marked


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    area=st.integers(1, 60),
    level=st.floats(-0.5, 0.5),
    reach=st.integers(0, 12),
    shift=st.sampled_from([-3, 0, 3]),
)
def test_something_is_marked_just_where_the_verdict_says_so(seed, area, level, reach, shift):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((24, 24)), 1.5)
    score = noise.astype(np.float32) + np.float32(shift)
    found = marked(score, level + shift, area, reach)
    assert found.any() == (metrics.area_score(score, area) > level + shift)
    whole = metrics.keep_regions(score > level + shift, area)
    assert not (found & ~whole).any()
    assert all(found.flat[region].any() for region in metrics.regions(whole)), "each region stays with a piece"


@pytest.mark.parametrize("height", [4, 40, 400])
def test_a_blurred_defect_is_outlined_where_it_is_however_strong(height):
    truth = np.zeros((96, 96), bool)
    truth[30:66, 24:60] = True
    score = ndimage.gaussian_filter(truth.astype(np.float32) * height, 5)
    found = marked(score, 1, 20, reach=16)
    assert metrics.f1(truth, found) > 0.96
    assert height == 4 or metrics.f1(truth, marked(score, 1, 20)) < 0.9


def test_a_weak_end_beyond_the_reach_of_a_strong_one_stays():
    score = np.zeros((32, 64), np.float32)
    score[10:20, 5:15], score[10:20, 15:40] = 100, 10
    left = np.arange(64)[marked(score, 1, 20, reach=12)[15]]
    assert left.tolist() == [*range(5, 15), *range(27, 40)]
    assert not marked(score, 1, 20, reach=30)[15, 20:].any()


def test_a_weak_defect_beside_a_strong_one_is_a_defect_of_its_own():
    score = np.zeros((32, 32), np.float32)
    score[10:20, 2:12], score[10:20, 14:24] = 100, 10
    assert np.array_equal(marked(score, 1, 20, reach=8), score > 0)


def test_pieces_too_small_to_count_go_unless_they_are_all_there_is():
    score = np.zeros((40, 40), np.float32)
    score[5:15, 5:30] = 10
    score[8:10, 6:8], score[5:15, 22:30] = 90, 100  # a spot of 4 pixels that is nobody's skirt, and what is large
    assert np.array_equal(marked(score, 1, 20, reach=10), score == 100)
    score[score == 100] = 10
    assert np.array_equal(marked(score, 1, 20, reach=40), score == 90)
