"""The threshold is the quantile that was asked for, in any unit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gumbel_r

from components.errors import UserError
from components.threshold import threshold

scores = st.lists(st.floats(-100, 100), min_size=3, max_size=60)


@pytest.mark.parametrize("alarms", [0.2, 0.05, 0.01])
def test_so_many_normal_images_exceed_it(alarms):
    rng = np.random.default_rng(0)
    limits = [threshold(gumbel_r.rvs(4, 1.5, size=300, random_state=rng), alarms) for _ in range(400)]
    assert np.mean(gumbel_r.sf(limits, 4, 1.5)) == pytest.approx(alarms, rel=0.2)
    assert threshold(gumbel_r.rvs(4, 1.5, size=200_000, random_state=rng), alarms) == pytest.approx(
        gumbel_r.isf(alarms, 4, 1.5), rel=0.02
    )


def test_it_hangs_less_on_chance_than_the_largest_score():
    rng = np.random.default_rng(1)
    draws = gumbel_r.rvs(size=(400, 30), random_state=rng)
    assert np.std([threshold(draw, 0.01) for draw in draws]) < draws.max(1).std()


@given(scores, st.floats(0.001, 0.5), st.floats(0.1, 10), st.floats(-50, 50))
def test_another_unit_gives_the_same_verdicts(given_scores, alarms, scale, shift):
    moved = [scale * score + shift for score in given_scores]
    assert threshold(moved, alarms) == pytest.approx(scale * threshold(given_scores, alarms) + shift, abs=1e-6)


@given(scores)
def test_fewer_alarms_need_a_higher_threshold(given_scores):
    assert threshold(given_scores, 0.001) >= threshold(given_scores, 0.01) >= threshold(given_scores, 0.1)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_a_share_is_between_none_and_all(share):
    with pytest.raises(UserError, match="false_alarms"):
        threshold([1.0, 2.0], share)
