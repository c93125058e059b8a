"""PixelSNAIL: causality, and passes over some rows equal to passes over all."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.prior.pixelsnail import PixelSNAIL, Rows
from components.settings import Prior


def small_prior(seed: int, codes: int = 7, grid: int = 6, sharpness: float = 3.0) -> PixelSNAIL:
    """A random prior with all weights away from their zero start, in float64 so that equality is exact."""
    torch.manual_seed(seed)
    config = Prior(8, 2, 1, 2, 2, 0.0, steps=1, batch=1, learning_rate=1.0, patience=1)
    prior = PixelSNAIL(codes, grid, config).double().eval()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=sharpness * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5)
    return prior


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), position=st.integers(0, 35), data=st.data())
def test_no_logit_at_or_before_a_changed_code_moves(seed, position, data):
    prior = small_prior(seed)
    codes = torch.randint(7, (1, 6, 6))
    changed = codes.clone()
    changed.view(-1)[position] = (changed.view(-1)[position] + data.draw(st.integers(1, 6))) % 7
    before, after = (prior(c).flatten(2) for c in (codes, changed))
    assert torch.equal(before[..., : position + 1], after[..., : position + 1])


def test_a_later_logit_does_move():
    prior = small_prior(0)
    codes = torch.zeros(1, 6, 6, dtype=torch.long)
    changed = codes.clone()
    changed[0, 0, 0] = 3
    moved = (prior(codes) != prior(changed)).any(1).flatten()
    assert moved[1:].all()  # attention reaches every later position


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(0, 5), images=st.sets(st.integers(0, 2)))
@torch.no_grad()
def test_rows_from_any_row_on_equal_the_whole_pass(seed, first, images):
    prior, rows = small_prior(seed), Rows()
    codes = torch.randint(7, (3, 6, 6))
    prior(codes, rows)
    taken = torch.tensor(sorted(images or range(3)))
    codes[taken, first:] = torch.randint(7, codes[taken, first:].shape)
    rows.first, rows.images = first, taken if images else None
    assert torch.allclose(prior(codes[taken], rows), prior(codes[taken])[:, :, first:], atol=1e-12)
    last = torch.randint(7, (3, 1, 6))
    codes[:, 5:] = last
    rows.first, rows.images = 5, None
    assert torch.allclose(prior(codes, rows), prior(codes)[:, :, 5:], atol=1e-12), "what was left out is still there"
