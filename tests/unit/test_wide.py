"""The wide view: a bounded say, and agreement counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.normality import wide
from components.normality.model import by_place
from components.normality.sums import Sums
from tests.unit.test_features import measured

SIDE, FEATURES = 16, 6


def normals(count: int, seed: int = 0) -> torch.Tensor:
    """Residuals of `count` normal images: features that vary unequally and together."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.diag(torch.linspace(0.5, 2, FEATURES)) + 0.3 * torch.ones(FEATURES, FEATURES).triu(1)
    return torch.einsum("bchw,cd->bdhw", torch.randn(count, FEATURES, SIDE, SIDE, generator=generator), mixing)


def whitening(images: torch.Tensor) -> torch.Tensor:
    return wide.whitening(Sums.of(by_place(images)))


def test_whitened_residuals_have_length_one_and_no_direction():
    images = normals(40)
    rows = torch.einsum("bchw,cd->bdhw", images, whitening(images)).permute(1, 0, 2, 3).flatten(1)
    second = (rows @ rows.T / rows.shape[1]).numpy()
    assert second.trace() == pytest.approx(1, rel=1e-3)
    assert second == pytest.approx(torch.eye(FEATURES).numpy() / FEATURES, abs=0.05)


@given(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.floats(1, 1e6), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_one_place_has_a_bounded_say_and_only_in_its_block(row, column, size, seed):
    images = normals(1, seed)
    white = whitening(normals(20))
    struck = images.clone()
    struck[0, :, row, column] = size * torch.randn(FEATURES, generator=torch.Generator().manual_seed(seed))
    before, after = (wide.blocks(one, white)[:, 0] for one in (images, struck))
    moved = (after - before).square().sum(1).sqrt()
    cells = SIDE // wide.BLOCKS
    at = row // cells * wide.BLOCKS + column // cells
    assert moved[at] <= 2 * wide.REACH / cells**2 + 1e-5
    assert not moved[torch.arange(len(moved)) != at].any()


def test_small_deviations_that_agree_stand_out_here_and_nowhere_else():
    model, image = measured(normals(60)), normals(1, 5)
    generator = torch.Generator().manual_seed(1)
    shift = 0.7 * torch.randn(FEATURES, generator=generator)[:, None, None]
    signs = torch.randint(0, 2, (SIDE // 4, SIDE // 4), generator=generator) * 2 - 1
    agreeing, divided = image.clone(), image.clone()
    agreeing[0, :, :4, :4] += shift
    divided[0, :, :4, :4] += shift * signs
    normal, one, other = (model.maps(each, ("wide",))["wide"][0] for each in (image, agreeing, divided))
    assert one[1, 1] > 2 * other[1, 1]  # at the middle of the block
    assert torch.allclose(one[8:, 8:], normal[8:, 8:], atol=0.1)  # the median moves a little
    assert model.maps(agreeing, ("mahalanobis",))["mahalanobis"].max() < 3  # no place by itself is far off


def test_normal_blocks_are_about_one():
    held_out = measured(normals(200)).maps(normals(100, seed=3), ("wide",))["wide"]
    assert held_out.square().mean().item() == pytest.approx(1, abs=0.2)
