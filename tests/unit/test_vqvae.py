"""VQ-VAE: shapes, the nearest code, the straight-through gradient, revival, both ways to learn a codebook."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.settings import VQVAE as Config
from components.vqvae.codebook import Codebook, usage
from components.vqvae.model import VQVAE

CONFIG = Config("pixels", "fixed", 0.5, 1.0, 1.0, 4, 8, 2, 16, 4, "ema", 0.25, 0.9, 0.05, 1, 1, learning_rate=1.0)


@pytest.mark.parametrize("downsample", [2, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_encode_and_decode_keep_the_shape_for_any_downsampling(downsample, channels):
    model = VQVAE(channels, dataclasses.replace(CONFIG, downsample=downsample)).eval()
    x = torch.rand(2, channels, 32, 32)
    codes = model.encode(x)
    assert codes.shape == (2, 32 // downsample, 32 // downsample)
    assert model.decode(codes).shape == x.shape


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 20), dim=st.integers(1, 6))
def test_the_chosen_code_is_the_nearest(seed, size, dim):
    torch.manual_seed(seed)
    codebook = Codebook(size, dim, "loss", 0.9, 0.0)
    z = torch.randn(2, dim, 3, 3)
    distances = (z.permute(0, 2, 3, 1)[..., None, :] - codebook.vectors).square().sum(-1)
    chosen = distances.gather(-1, codebook.indices(z)[..., None]).squeeze(-1)
    assert torch.allclose(chosen, distances.amin(-1), atol=1e-5)


def test_a_code_looked_up_is_found_again():
    codebook = Codebook(16, 4, "loss", 0.9, 0.0)
    codes = torch.randint(16, (2, 5, 5))
    assert torch.equal(codebook.indices(codebook.lookup(codes)), codes)


def test_the_gradient_passes_straight_through():
    codebook = Codebook(8, 4, "loss", 0.9, 0.0)
    z = torch.randn(1, 4, 3, 3, requires_grad=True)
    weights = torch.randn(1, 4, 3, 3)
    (codebook(z)[0] * weights).sum().backward()
    assert torch.equal(z.grad, weights)


def test_eq_3_has_its_gradients_on_the_right_sides():
    codebook = Codebook(8, 4, "loss", 0.9, 0.0)
    z = torch.randn(1, 4, 3, 3, requires_grad=True)
    _, _, codebook_loss, commitment = codebook(z)
    (by_z, by_vectors) = torch.autograd.grad(codebook_loss, [z, codebook.vectors], allow_unused=True, retain_graph=True)
    assert by_z is None and by_vectors.abs().sum() > 0  # ||sg[z_e] - z_q||: moves codes only
    (by_z, by_vectors) = torch.autograd.grad(commitment, [z, codebook.vectors], allow_unused=True)
    assert by_vectors is None and by_z.abs().sum() > 0  # ||z_e - sg[z_q]||: moves the encoder only


@pytest.mark.parametrize(("revive_below", "fewest", "most"), [(0.1, 20, 32), (0.0, 1, 4)])
def test_revival_spreads_a_collapsed_codebook(revive_below, fewest, most):
    torch.manual_seed(0)
    codebook = Codebook(32, 2, "ema", 0.9, revive_below).train()
    codebook.ready.fill_(True)
    codebook.sums.fill_(100.0)
    codebook.vectors.fill_(100.0)  # far from all data: one code wins everything
    centres = torch.randn(32, 2) * 4
    for _ in range(200):
        picks = torch.randint(32, (4, 8, 8))
        codebook((centres[picks] + 0.05 * torch.randn(4, 8, 8, 2)).permute(0, 3, 1, 2))
    used, _ = usage(codebook.indices(centres.t()[None, :, :, None]), 32)
    assert fewest <= used <= most


def test_usage_of_one_code_and_of_all():
    assert usage(torch.zeros(4, 4, dtype=torch.long), 8) == (1, 1.0)
    used, perplexity = usage(torch.arange(8), 8)
    assert used == 8 and perplexity == pytest.approx(8.0)


@pytest.mark.parametrize("mode", ["ema", "loss"])
def test_training_lowers_the_loss(mode):
    torch.manual_seed(0)
    model = VQVAE(1, dataclasses.replace(CONFIG, codebook=mode)).train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    x = torch.nn.functional.interpolate(torch.rand(8, 1, 4, 4), size=(16, 16), mode="bilinear")
    losses = []
    for _ in range(120):
        y, _, codebook, commitment = model(x)
        loss = (y - x).square().mean() / x.var() + codebook + 0.25 * commitment
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
