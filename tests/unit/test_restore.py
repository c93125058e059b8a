"""Restoration equals the naive raster loop, code for code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.restore import lower_neighbours, own, restore
from tests.unit.reference import restore_naively
from tests.unit.test_prior import small_prior


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    grid=st.integers(1, 6),
    codes=st.integers(2, 9),
    batch=st.integers(1, 3),
    eta=st.floats(0.0, 1.0),
    rule=st.booleans(),
)
def test_fixed_point_equals_raster_loop(seed, grid, codes, batch, eta, rule):
    prior = small_prior(seed, codes, grid)
    z = torch.randint(codes, (batch, grid, grid))
    result = restore(prior, z, eta, rule)
    assert torch.equal(result.codes, restore_naively(prior, z, eta, rule))
    with torch.no_grad():
        assert torch.allclose(result.likelihood_restored, own(prior(result.codes), z), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cells=st.integers(1, 3),
    eta=st.floats(0.0, 1.0),
    rule=st.booleans(),
    order=st.integers(0, 1),
)
def test_with_codes_for_whole_cells_too(seed, cells, eta, rule, order):
    prior = small_prior(seed, 8, 2 * cells)
    coarse = (torch.rand(2, cells, cells) < 0.5).repeat_interleave(2, 1).repeat_interleave(2, 2)
    whole = torch.randint(4, 8, (2, cells, cells)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    z = torch.where(coarse, whole, torch.randint(4, coarse.shape))
    result = restore(prior, z, eta, rule, order, coarse)
    if order == 0:
        assert torch.equal(result.codes, restore_naively(prior, z, eta, rule, coarse=coarse))
    for likelihood in (result.likelihood, result.likelihood_restored):
        found = likelihood.unfold(1, 2, 2).unfold(2, 2, 2)  # (2, cells, cells, 2, 2)
        same = (found == found[..., :1, :1]).all(-1).all(-1)
        assert same[coarse[:, ::2, ::2]].all(), "one code has one likelihood"


def test_a_suspicious_cell_needs_no_neighbour():
    """All its neighbours to the right and below are itself or good, yet all four positions are replaced."""
    z = torch.zeros(1, 4, 4, dtype=torch.long)
    z[:, :2, :2] = 1

    class Expecting(torch.nn.Module):  # code 0 everywhere, but what stands left or above in the cell once that is seen
        def forward(self, codes, rows=None, order=0):
            expected = torch.zeros_like(codes)
            expected[:, :, 1::2] = codes[:, :, ::2]
            expected[:, 1::2] = codes[:, ::2][:, : expected[:, 1::2].shape[1]]
            first = rows.first if rows is not None else 0
            return 20.0 * torch.nn.functional.one_hot(expected, 2)[:, first:].permute(0, 3, 1, 2).double()

    assert torch.equal(restore(Expecting(), z, 0.1, coarse=None).codes, z), "protected by its own other positions"
    assert not restore(Expecting(), z, 0.1, coarse=z == 1).codes.any()


def test_the_property_test_does_replace_codes_and_cascades():
    """Guards the test above against priors so flat that nothing ever happens."""
    replaced = passes = 0
    for seed in range(20):
        prior = small_prior(seed)
        z = torch.randint(7, (1, 6, 6))
        result = restore(prior, z, 0.1)
        replaced += int((result.codes != z).sum())
        passes = max(passes, result.passes)
    assert replaced > 50
    assert passes > 3


def test_a_grid_with_no_unlikely_code_costs_one_pass():
    prior = small_prior(1)
    z = torch.randint(7, (2, 6, 6))
    result = restore(prior, z, 0.0)
    assert result.passes == 1
    assert torch.equal(result.codes, z)


def test_passes_are_the_mean_over_the_images():
    prior, eta = small_prior(1), 1 / 7 - 1e-6  # the likeliest of seven codes is never below
    z = torch.randint(7, (1, 6, 6))
    dirty = restore(prior, z, eta, neighbour_rule=False)
    clean = restore(prior, dirty.codes, eta, neighbour_rule=False)
    assert dirty.passes > clean.passes == 1
    both = restore(prior, torch.cat([z, dirty.codes]), eta, neighbour_rule=False)
    assert both.passes == pytest.approx((dirty.passes + 1) / 2)


def test_an_image_does_not_depend_on_its_batch():
    prior = small_prior(2)
    z = torch.randint(7, (5, 6, 6))
    together = restore(prior, z, 0.2).codes
    assert torch.equal(together, torch.cat([restore(prior, one[None], 0.2).codes for one in z]))


def test_the_reverse_order_is_the_raster_order_of_the_turned_grid():
    prior = small_prior(3)
    z = torch.randint(7, (3, 6, 6))
    with torch.no_grad():
        prior.row[1].copy_(prior.row[0])
        prior.column[1].copy_(prior.column[0])
    turned = restore(prior, z.flip(1, 2), 0.2)
    reverse = restore(prior, z, 0.2, order=1)
    assert torch.equal(reverse.codes, turned.codes.flip(1, 2))
    assert torch.equal(reverse.likelihood_restored, turned.likelihood_restored.flip(1, 2))


def test_lower_neighbours_by_hand():
    p = torch.tensor([[[0.9, 0.1], [0.5, 0.3]]])
    # (0,0): E .1 S .5 SE .3; (0,1): SW .5 S .3; (1,0): E .3; (1,1): none
    assert torch.allclose(lower_neighbours(p), torch.tensor([[[0.1, 0.3], [0.3, 0.0]]]))


def test_own_is_the_softmax_of_the_chosen_code():
    logits = torch.randn(2, 5, 3, 3)
    codes = torch.randint(5, (2, 3, 3))
    assert torch.allclose(own(logits, codes), logits.softmax(1).gather(1, codes[:, None]).squeeze(1))
