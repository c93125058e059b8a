"""The wide view: bounded say, agreement counts, and what is stored, added and taken away is the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from components.features import normality, wide

CPU = torch.device("cpu")
SIDE, FEATURES = 16, 6


def normals(count: int, seed: int = 0) -> torch.Tensor:
    """Residuals of `count` normal images: features that vary unequally and together."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.diag(torch.linspace(0.5, 2, FEATURES)) + 0.3 * torch.ones(FEATURES, FEATURES).triu(1)
    return torch.einsum("bchw,cd->bdhw", torch.randn(count, FEATURES, SIDE, SIDE, generator=generator), mixing)


def fitted(count: int = 60) -> normality.Normality:
    images = normals(count)
    return normality.Seen.of(images.split(7), wide.whitening(images[:20].split(7))).normality(CPU)


def test_whitened_residuals_have_length_one_and_no_direction():
    images = normals(40)
    rows = torch.einsum("bchw,cd->bdhw", images, wide.whitening(images.split(9))).permute(1, 0, 2, 3).flatten(1)
    second = (rows @ rows.T / rows.shape[1]).numpy()
    assert second.trace() == pytest.approx(1, rel=1e-3)
    assert second == pytest.approx(torch.eye(FEATURES).numpy() / FEATURES, abs=0.05)


def test_without_a_residual_there_is_no_whitening():
    with pytest.raises(ValueError, match="no residual"):
        wide.whitening([])


@given(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.floats(1, 1e6), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_one_place_has_a_bounded_say_and_only_in_its_block(row, column, size, seed):
    images = normals(1, seed)
    whitening = wide.whitening([normals(20)])
    struck = images.clone()
    struck[0, :, row, column] = size * torch.randn(FEATURES, generator=torch.Generator().manual_seed(seed))
    before, after = (wide.blocks(one, whitening)[:, 0] for one in (images, struck))
    moved = (after - before).square().sum(1).sqrt()
    cells = SIDE // wide.BLOCKS
    at = row // cells * wide.BLOCKS + column // cells
    assert moved[at] <= 2 * wide.REACH / cells**2 + 1e-5
    assert not moved[torch.arange(len(moved)) != at].any()


def test_small_deviations_that_agree_stand_out_here_and_nowhere_else():
    model, image = fitted(), normals(1, 5)
    generator = torch.Generator().manual_seed(1)
    shift = 0.7 * torch.randn(FEATURES, generator=generator)[:, None, None]
    signs = torch.randint(0, 2, (SIDE // 4, SIDE // 4), generator=generator) * 2 - 1
    agreeing, divided = image.clone(), image.clone()
    agreeing[0, :, :4, :4] += shift
    divided[0, :, :4, :4] += shift * signs
    normal, one, other = (model.maps(each, ("wide",))["wide"][0] for each in (image, agreeing, divided))
    assert one[1, 1] > 2 * other[1, 1]  # at the middle of the block
    assert torch.allclose(one[8:, 8:], normal[8:, 8:])
    assert model.maps(agreeing, ("mahalanobis",))["mahalanobis"].max() < 3  # no place by itself is far off


def test_normal_blocks_are_about_one():
    held_out = fitted(200).maps(normals(100, seed=3), ("wide",))["wide"]
    assert held_out.square().mean().item() == pytest.approx(1, abs=0.2)


def test_what_is_stored_measures_the_same(tmp_path):
    model, drawn = fitted(), normals(3, seed=4)
    save_file(model.tensors(), tmp_path / "normality.safetensors")
    again = normality.Normality.restored(load_file(tmp_path / "normality.safetensors"), CPU)
    assert torch.equal(model.maps(drawn, ("wide",))["wide"], again.maps(drawn, ("wide",))["wide"])


def test_a_model_without_a_wide_view_draws_the_others(tmp_path):
    model = normality.Seen.of([normals(20)]).normality(CPU)
    save_file(model.tensors(), tmp_path / "normality.safetensors")
    again = normality.Normality.restored(load_file(tmp_path / "normality.safetensors"), CPU)
    assert again.wide is None
    assert list(again.maps(normals(1), ("mahalanobis", "wide"))) == ["mahalanobis"]


def test_what_a_fold_adds_to_the_wide_view_can_be_taken_away_again():
    images = normals(30)
    whitening = wide.whitening([images])
    whole, fold, rest = (
        normality.Seen.of([part], whitening) for part in (images, images[::5], images[[i for i in range(30) if i % 5]])
    )
    left, alone = (whole - fold).normality(CPU).wide, rest.normality(CPU).wide
    assert torch.allclose(left.mean, alone.mean, atol=1e-6)
    assert torch.allclose(left.factor, alone.factor, rtol=1e-2, atol=1e-2)
