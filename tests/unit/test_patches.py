"""Patch-aware codes: the choice, its gradient, the grid that tells it, the budget and its loss."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.detector import Detector
from components.errors import UserError
from components.scores import BUDGET, PIXELS
from components.standard import standard
from components.vqvae.budget import BINS, budget_loss, budgets, richness
from components.vqvae.codebook import Codebook, usage
from components.vqvae.model import VQVAE
from components.vqvae.patches import COARSE, FINE, PatchVQVAE, gate, spread
from components.vqvae.train import build, described
from tests.unit.test_prior import small_prior
from tests.unit.test_vqvae import CONFIG as PLAIN

CONFIG = dataclasses.replace(PLAIN, allocation="context", codebook_size=16)


def patch_model(seed=0, channels=3, **changes):
    """A random model whose router is undecided enough to choose both."""
    torch.manual_seed(seed)
    model = PatchVQVAE(channels, dataclasses.replace(CONFIG, **changes))
    for layer in model.encoder.router:
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=3.0)
    with torch.no_grad():
        logits = model.encoder.grains(torch.rand(8, channels, 32, 32))[2]
        model.encoder.router[-1].bias -= logits.mean((0, 2, 3))
    return model


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), training=st.booleans())
def test_the_choice_is_one_hot_and_by_the_larger_logit_in_use(seed, training):
    torch.manual_seed(seed)
    logits = 3 * torch.randn(2, 2, 4, 4)
    choice = gate(logits, training)
    assert torch.allclose(choice.sum(1), torch.ones(2, 4, 4))
    assert torch.allclose(choice.amax(1), torch.ones(2, 4, 4))
    if not training:
        assert torch.equal(choice.argmax(1), logits.argmax(1))


def test_choices_while_training_are_drawn_by_their_probability():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, np.log(3.0)]).view(1, 2, 1, 1).expand(1, 2, 100, 100)
    assert gate(logits, training=True)[:, COARSE].mean().item() == pytest.approx(0.75, abs=0.02)


def test_the_gradient_of_the_reconstruction_alone_reaches_the_router():
    model = patch_model(budget_weight=0.0).train()
    model.losses(torch.rand(4, 3, 32, 32))[0].backward()
    for part in (model.encoder.router, model.encoder.halve, model.encoder.fine, model.encoder.trunk):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), channels=st.sampled_from([1, 3]), downsample=st.sampled_from([2, 4, 8]))
def test_a_coarse_cell_has_one_code_and_the_codes_tell_the_allocation(seed, channels, downsample):
    model = patch_model(seed, channels, downsample=downsample).eval()
    x = torch.rand(2, channels, 32, 32)
    codes, probability = model.allocate(x)
    assert codes.shape == probability.shape == (2, 32 // downsample, 32 // downsample)
    coarse = model.coarse(codes)
    assert torch.equal(coarse, probability < 0.5)
    assert torch.equal(coarse, spread(coarse[:, ::2, ::2])), "all four positions of a cell, or none"
    assert torch.equal(codes[coarse], spread(codes[:, ::2, ::2])[coarse])
    assert torch.equal(model.encode(x), codes) and torch.equal(model(x)[1], codes)


def test_both_kinds_occur_in_the_property_above():
    model = patch_model().eval()
    share = model.coarse(model.encode(torch.rand(4, 3, 32, 32))).float().mean()
    assert 0.2 < share < 0.8


def test_each_position_takes_the_nearest_code_of_its_half():
    model = patch_model().eval()
    x = torch.rand(2, 3, 32, 32)
    fine, coarse, logits = model.encoder.grains(x)
    wanted = torch.where(
        spread(logits.argmax(1)) == FINE,
        (fine.permute(0, 2, 3, 1)[..., None, :] - model.codebook.vectors[:8]).square().sum(-1).argmin(-1),
        8 + (spread(coarse).permute(0, 2, 3, 1)[..., None, :] - model.codebook.vectors[8:]).square().sum(-1).argmin(-1),
    )
    assert torch.equal(model.encode(x), wanted)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_grid_decodes_also_one_that_no_image_has(seed):
    """A restoration replaces single positions, so coarse codes may stand alone."""
    model = patch_model(seed).eval()
    codes = torch.randint(16, (2, 8, 8))
    with torch.no_grad():
        assert model.decode(codes).shape == (2, 3, 32, 32)
        x = torch.rand(2, 3, 32, 32)
        assert torch.allclose(model.decode(model.encode(x)), model(x)[0], atol=1e-6)
        one = codes.clone()
        one[0, 3, 4] = (one[0, 3, 4] + 8) % 16
        assert not torch.equal(model.decode(one)[0], model.decode(codes)[0])
        assert torch.equal(model.decode(one)[1], model.decode(codes)[1])


def test_each_half_revives_from_its_own_positions():
    torch.manual_seed(0)
    codebook = Codebook(32, 2, "ema", 0.9, 0.1, parts=2).train()
    codebook.ready.fill_(True)
    codebook.sums.fill_(100.0)
    codebook.vectors.fill_(100.0)
    centres = torch.randn(2, 16, 2) * 4 + torch.tensor([-20.0, 20.0]).view(2, 1, 1)
    for _ in range(200):
        part, picks = torch.randint(2, (4, 8, 8)), torch.randint(16, (4, 8, 8))
        codebook((centres[part, picks] + 0.05 * torch.randn(4, 8, 8, 2)).permute(0, 3, 1, 2), part)
    for number in range(2):
        z = centres[number].t()[None, :, :, None]
        codes = codebook.indices(z, torch.full((1, 16, 1), number))
        assert torch.equal(codes // 16, torch.full((1, 16, 1), number))
        assert usage(codes, 32)[0] >= 11
        assert (codebook.vectors[16 * number : 16 * number + 16].mean() > 0) == bool(number)


def test_a_half_without_positions_keeps_its_codes():
    """As when the router sends everything one way for a while."""
    torch.manual_seed(0)
    codebook = Codebook(8, 2, "ema", 0.5, 0.1, parts=2).train()
    z, part = torch.randn(4, 2, 4, 4), torch.randint(2, (4, 4, 4))
    codebook(z, part)
    before = codebook.vectors.clone()
    for _ in range(300):
        codebook(torch.randn(4, 2, 4, 4), torch.zeros_like(part))
    assert torch.equal(codebook.vectors[4:], before[4:])
    assert not torch.equal(codebook.vectors[:4], before[:4]) and codebook.vectors.isfinite().all()


def test_one_part_moves_as_a_codebook_without_parts():
    books = []
    for parts in (None, torch.zeros(4, 4, 4, dtype=torch.long)):
        torch.manual_seed(0)
        book = Codebook(8, 2, "ema", 0.9, 0.1).train()
        for _ in range(20):
            book(torch.randn(4, 2, 4, 4), parts)
        books.append(book)
    for name, value in books[0].state_dict().items():
        assert torch.equal(value, books[1].state_dict()[name])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), grey=st.floats(0, 1), amplitude=st.floats(0, 0.5), side=st.sampled_from([4, 8, 16]))
def test_richness_is_0_of_a_flat_patch_and_at_most_1(seed, grey, amplitude, side):
    rng = torch.Generator().manual_seed(seed)
    flat = torch.full((1, 3, 32, 32), grey)
    assert not richness(flat, side).any()
    rich = richness((flat + amplitude * (2 * torch.rand(flat.shape, generator=rng) - 1)).clamp(0, 1), side)
    assert rich.shape == (1, 32 // side, 32 // side) and (rich >= 0).all() and (rich <= 1).all()


def test_noise_from_black_to_white_is_the_richest_and_the_lamp_does_not_count():
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(4, 1, 64, 64, generator=rng)
    steps = (noise * 4).floor() / 4
    assert richness(noise, 32).min() > 0.99
    assert richness(0.3 * noise, 32).max() < richness(noise, 32).min()
    assert richness(steps, 32).mean() == pytest.approx(np.log(4) / np.log(BINS), abs=0.01), "four greys, equally often"
    assert torch.allclose(richness(0.25 * noise, 32), richness(0.25 * noise + 0.5, 32), atol=1e-2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), budget=st.floats(0.01, 1.0))
def test_the_loss_is_0_at_the_budget_and_rises_away_from_it(seed, budget):
    rng = torch.Generator().manual_seed(seed)
    target = budgets(torch.rand(2, 4, 4, generator=rng), budget)
    assert ((target >= 0) & (target <= 1)).all()
    assert budget_loss(target, target) == 0
    away = torch.rand(2, 4, 4, generator=rng) - target
    losses = [budget_loss(target + step * away, target).item() for step in (0.25, 0.5, 1.0)]
    assert 0 < losses[0] < losses[1] < losses[2]


def test_rich_regions_get_more_and_all_together_the_budget():
    rich = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    target = budgets(rich, 0.5)
    assert target.mean().item() == pytest.approx(0.5)
    assert torch.allclose(target, torch.tensor([[[0.2, 0.4], [0.6, 0.8]]]))
    assert budgets(rich, 1.0).amax() == 1, "no region has more than all"
    assert not budgets(torch.zeros(1, 2, 2), 0.5).any(), "nothing to tell anywhere"


def test_training_draws_the_router_to_the_budget():
    """Flat on the left, noise on the right: the codes go where there is something to tell."""
    torch.manual_seed(0)
    model = build(1, CONFIG).train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    x = torch.rand(8, 1, 32, 32)
    x[..., :16] = 0.5
    for _ in range(80):
        loss, _, _, codebook, commitment = model.losses(x)
        optimiser.zero_grad()
        (loss + codebook + 0.25 * commitment).backward()
        optimiser.step()
    coarse = model.eval().coarse(model.encode(x)).float()
    assert coarse[..., :4].mean() > 0.9 and coarse[..., 4:].mean() < 0.1


def test_a_description_from_before_is_of_codes_of_one_size():
    old = {name: value for name, value in dataclasses.asdict(PLAIN).items() if "budget" not in name}
    del old["allocation"], old["latent"]
    model = described(json.loads(json.dumps({"image_channels": 3, "config": old})))
    assert type(model) is VQVAE and not model.allocates
    assert type(described({"image_channels": 3, "config": dataclasses.asdict(CONFIG)})) is PatchVQVAE


@pytest.mark.parametrize(("changes", "said"), [({"latent": "features"}, "over pixels"), ({"codebook_size": 7}, "even")])
def test_what_cannot_be_allocated_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        build(3, dataclasses.replace(CONFIG, **changes))


def detector(model):
    prior = small_prior(0, codes=16, grid=8).float()
    return Detector(model.eval(), prior, 0.01, True, (3.0, 75.0, 75.0))


def test_the_budget_is_a_map_and_scores_of_a_model_that_has_one():
    plain, patchy = detector(VQVAE(3, PLAIN)), detector(patch_model())
    assert plain.kind == PIXELS
    assert patchy.kind == PIXELS | BUDGET
    assert set(patchy.kind.candidates) > set(plain.kind.candidates)
    maps, evidence = patchy.look(torch.rand(2, 3, 32, 32))
    assert set(maps) == set(patchy.kind.maps) and maps["budget"].shape == (2, 32, 32)
    assert evidence.budget is not None and maps["budget"].min() >= 0 and maps["budget"].max() <= 1


def test_a_budget_below_the_usual_is_as_suspect_as_one_above():
    usual = np.random.default_rng(0).normal(0.5, 0.1, (30, 32, 32)).astype(np.float32)
    patchy = dataclasses.replace(detector(patch_model()), standards={"budget": standard(usual, 8, 0.01)})
    more, less, same = (np.full((1, 32, 32), value, np.float32) for value in (0.9, 0.1, 0.5))
    scores = [patchy.score({"budget": one}, "budget").mean() for one in (more, less, same)]
    assert scores[0] == pytest.approx(scores[1], rel=0.05) and scores[0] > 5 * scores[2] > 0
