"""How far a point's score spreads is read off the maps of dots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.spread import half_width

SIZE = 96
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def blurred(middles: list[tuple[float, float]], width: float, heights: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Responses that have fallen to half of their height at `width` from their middle, and dots of 2 pixels."""
    away = np.stack([np.hypot(ROWS - y, COLUMNS - x) for y, x in middles])
    return np.array(heights)[:, None, None] * 2.0 ** -((away / width) ** 2), away <= 2


@settings(max_examples=60)
@given(
    width=st.floats(4, 16),
    middles=st.lists(st.tuples(st.floats(24, 72), st.floats(24, 72)), min_size=1, max_size=5),
    data=st.data(),
)
def test_the_width_at_half_of_the_height_is_found_whatever_the_height(
    width: float, middles: list[tuple[float, float]], data: st.DataObject
) -> None:
    heights = data.draw(st.lists(st.floats(0.1, 100), min_size=len(middles), max_size=len(middles)))
    assert half_width(*blurred(middles, width, heights)) == pytest.approx(width, abs=1.5)


def test_a_dot_that_raises_nothing_says_nothing() -> None:
    response, dots = blurred([(40, 40), (50, 50)], 8, [5.0, -5.0])
    assert half_width(response, dots) == half_width(response[:1], dots[:1])
    assert half_width(-np.abs(response), dots) == 0


def test_a_few_dots_that_hardly_raise_the_map_do_not_matter() -> None:
    """Divided by their own heights, what else is in their images would be the largest there is."""
    strong, dots = blurred([(30, 30), (40, 60), (60, 40)], 8, [3.0, 5.0, 4.0])
    weak, faint = blurred([(48, 48)], 8, [0.01])
    weak += 2.0 * (np.hypot(ROWS - 48, COLUMNS - 66) < 6)
    assert half_width(np.concatenate([strong, weak]), np.concatenate([dots, faint])) == half_width(strong, dots)


def test_what_never_falls_to_half_spreads_as_far_as_is_looked() -> None:
    _, dots = blurred([(48, 48)], 8, [1.0])
    assert half_width(np.ones((1, SIZE, SIZE)), dots) == SIZE // 4
