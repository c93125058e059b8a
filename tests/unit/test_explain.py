"""Explanations agree with the prior they explain."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from components.explain import attend, expect, patches
from components.prior.pixelsnail import Attention, PixelSNAIL
from components.settings import Prior

CONFIG = Prior(channels=8, blocks=2, residual_layers=1, heads=2, orders=1, dropout=0.0, steps=1, batch=1,
               learning_rate=0.1, patience=0)  # fmt: skip


@pytest.fixture
def prior() -> PixelSNAIL:
    torch.manual_seed(0)
    made = PixelSNAIL(7, 6, CONFIG).eval()
    for parameter in made.parameters():  # the blocks start as the identity: give them something to do
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randint(0, 7, (2, 6, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (5, 5)])
def test_the_logits_are_the_priors_own(prior, codes, row, column):
    logits, weights = attend(prior, codes, row, column)
    assert torch.allclose(logits, prior(codes)[:, :, row, column], atol=1e-4)
    assert weights.shape == (2, 2, 2, 6, 6)
    assert torch.allclose(weights.sum((3, 4)), torch.ones(2, 2, 2), atol=1e-5)
    assert (weights.flatten(3)[..., row * 6 + column + 1 :] == 0).all()


def test_the_weights_are_those_the_layer_mixed_with(prior, codes):
    row, column, seen = 4, 1, []
    layer = next(block for block in prior.blocks if isinstance(block, Attention))
    layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    _, weights = attend(prior, codes, row, column)
    before, after = seen[0]
    values = layer.split(layer.qkv(F.elu(before)).chunk(3, 1)[2])
    used = weights[:, 0].flatten(2)[:, :, : values.shape[2]]
    mixed = (used[:, :, None] @ values).flatten(1)[:, :, None, None]  # (B, heads * C / heads, 1, 1)
    expected = before[:, :, row : row + 1, column : column + 1] + F.glu(layer.out(mixed), dim=1)
    assert torch.allclose(after[:, :, row : row + 1, column : column + 1], expected, atol=1e-4)


def test_an_expectation_is_of_what_came_before(prior, codes):
    original, restored = codes
    told = expect(prior, original, restored, 3, 2, n=4)
    logits = prior(codes).softmax(1)[:, :, 3, 2].detach()
    assert told.likelihood == pytest.approx(float(logits[0, original[3, 2]]), rel=1e-3)
    assert told.likelihood_restored == pytest.approx(float(logits[1, original[3, 2]]), rel=1e-3)
    assert told.probabilities == tuple(sorted(told.probabilities, reverse=True)) and len(told.codes) == 4
    assert told.codes[0] == int(logits[1].argmax())
    later = original.clone()
    later[4:] = 0
    assert expect(prior, later, restored, 3, 2).likelihood == pytest.approx(told.likelihood, rel=1e-5)


def test_patches_show_the_candidate_in_its_surroundings():
    def decode(grids: torch.Tensor) -> torch.Tensor:
        return (grids[:, None].float() / 10).repeat_interleave(4, 2).repeat_interleave(4, 3)

    grid = torch.zeros(6, 6, dtype=torch.int64)
    middle, corner = patches(decode, grid, 2, 3, (5, 9)), patches(decode, grid, 0, 0, (5,))
    assert [one.shape for one in middle] == [(20, 20, 3)] * 2
    assert (middle[1][8:12, 8:12] == round(0.9 * 255)).all() and middle[1].astype(int).sum() == 16 * 3 * round(
        0.9 * 255
    )
    assert (corner[0][:8] == 127).all() and (corner[0][8:12, 8:12] == round(0.5 * 255)).all()
    assert np.array_equal(grid, torch.zeros(6, 6))
