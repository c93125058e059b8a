"""Strengths of waves: which length and direction answer, what light does to them, and what does not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.wavelets import FREQUENCY, GREY, OCTAVES, ORIENTATIONS, strengths, wavelets

SIZE, SIDE = 128, 16


def grating(radians: float, angle: float, amplitude: float = 0.2, phase: float = 0.0) -> torch.Tensor:
    """A wave of so many radians a pixel, (1, 1, SIZE, SIZE), across the direction of `angle`."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    across = math.cos(angle) * columns + math.sin(angle) * rows
    return 0.5 + amplitude * torch.sin(radians * across + phase)[None, None]


def waves(image: torch.Tensor) -> torch.Tensor:
    """(OCTAVES, ORIENTATIONS): the strengths in the middle of the image."""
    found = strengths(image, SIDE)[0, : OCTAVES * ORIENTATIONS, SIDE // 2, SIDE // 2]
    return found.unflatten(0, (OCTAVES, ORIENTATIONS))


@pytest.mark.parametrize("octave", range(OCTAVES))
@pytest.mark.parametrize("orientation", range(ORIENTATIONS))
def test_a_wave_is_answered_by_its_own_length_and_direction(octave: int, orientation: int) -> None:
    found = waves(grating(FREQUENCY / 2**octave, orientation * math.pi / ORIENTATIONS))
    assert int(found.argmax()) == octave * ORIENTATIONS + orientation


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 2 * math.pi), st.integers(1, 2), st.integers(0, ORIENTATIONS - 1))
def test_where_in_its_period_a_wave_is_matters_little(phase: float, octave: int, orientation: int) -> None:
    angle = orientation * math.pi / ORIENTATIONS
    here, there = (waves(grating(FREQUENCY / 2**octave, angle, phase=p))[octave, orientation] for p in (0.0, phase))
    assert float(here - there) == pytest.approx(0, abs=0.25), (
        "a fifth at most, where its length or direction matter a multiple"
    )


@settings(max_examples=30, deadline=None)
@given(level=st.floats(0, 1), channels=st.sampled_from([1, 3]))
def test_plain_light_has_a_colour_and_no_waves(level: float, channels: int) -> None:
    found = strengths(torch.full((1, channels, SIZE, SIZE), level), SIDE)
    assert found.shape == (1, OCTAVES * ORIENTATIONS + channels, SIDE, SIDE) and found.isfinite().all()
    np.testing.assert_allclose(found[:, :-channels], math.log(GREY), atol=1e-3)
    np.testing.assert_allclose(found[:, -channels:], math.log(GREY + level), atol=1e-4)


def test_twice_the_contrast_is_twice_the_strength_above_a_grey_value() -> None:
    weak, strong = (waves(grating(FREQUENCY / 2, 0, amplitude)).exp() - GREY for amplitude in (0.2, 0.4))
    torch.testing.assert_close(strong, 2 * weak, rtol=1e-3, atol=1e-4)


def test_the_filters_have_no_mean_and_turn_into_each_other() -> None:
    filters = wavelets()[:, 0]
    assert filters.shape == (2 * ORIENTATIONS, 7, 7) and filters.sum((1, 2)).abs().max() < 1e-6
    quarter = ORIENTATIONS // 2
    torch.testing.assert_close(filters[quarter], torch.rot90(filters[0], 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "octaves"), [(8, 1), (16, 2), (32, 3), (64, 4)])
def test_a_small_image_has_fewer_octaves(size: int, octaves: int) -> None:
    assert strengths(torch.rand(2, 1, size, size), 4).shape == (2, octaves * ORIENTATIONS + 1, 4, 4)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirrored_image_has_mirrored_strengths(axis: int) -> None:
    """No octave is moved against the others, nor favours a side."""
    image = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    found, mirrored = strengths(image, SIDE), strengths(image.flip(axis), SIDE)
    order = [octave * ORIENTATIONS + k for octave in range(OCTAVES) for k in (0, 5, 4, 3, 2, 1)]
    order += range(OCTAVES * ORIENTATIONS, found.shape[1])
    torch.testing.assert_close(mirrored.flip(axis)[:, order], found, atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(5, SIDE - 6), st.integers(5, SIDE - 6), st.integers(0, OCTAVES - 1))
def test_all_octaves_say_one_place(row: int, column: int, octave: int) -> None:
    """The strength that a dot adds lies around the dot, in long waves as in short ones."""
    image = torch.full((1, 1, SIZE, SIZE), 0.5)
    cell = SIZE // SIDE
    image[..., row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = 1
    added = strengths(image, SIDE)[0, octave * ORIENTATIONS :][:ORIENTATIONS].exp().sub(GREY).sum(0)
    rows, columns = (added.sum(dim) for dim in (1, 0))
    places = torch.arange(SIDE)
    assert float((rows * places).sum() / rows.sum()) == pytest.approx(row, abs=0.05)
    assert float((columns * places).sum() / columns.sum()) == pytest.approx(column, abs=0.05)
