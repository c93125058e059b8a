"""What normal images together explain: against ridge regression, a singular value
decomposition and images that took no part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import TruncatedSVD

from components.normality import model as normality
from components.normality import subspace
from components.normality.model import Normality
from components.normality.subspace import Common, pooled, without_median

CPU = torch.device("cpu")
NAMES = ("residual", "deviation", "mahalanobis", "layers", "wide")


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(normality, "COARSE", 3)
    torch.manual_seed(0)


def normals(count: int, seed: int = 0, ways: int = 4) -> torch.Tensor:
    """Residuals (count, 5, 8, 8) that differ in a few `ways`, which are always the same ones, and in noise."""
    always = torch.Generator().manual_seed(7)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(ways, 5, 8, 8, generator=always)
    told = torch.randn(count, ways, generator=generator) @ directions.flatten(1)
    return told.view(count, 5, 8, 8) + 0.3 * torch.randn(count, 5, 8, 8, generator=generator)


def cross_fitted(images: torch.Tensor, folds: int = 5) -> tuple[Normality, tuple[Normality, ...]]:
    """With the images in folds by turns, as if each were of another part."""
    return normality.cross_fitted(images, Common.of([images.float()]), torch.arange(len(images)) % folds, CPU)


def fitted(images: torch.Tensor) -> subspace.Subspace:
    return Common.of(images.split(7)).subspace(torch.ones(len(images), dtype=torch.bool), CPU)


@given(st.integers(5, 30), st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_what_is_explained_is_ridge_regression_on_the_normal_images(count, seed):
    images, drawn = normals(count, seed), normals(3, seed + 1)
    left = fitted(images).unexplained(drawn)
    x = pooled(without_median(images)).flatten(1).double()
    own = pooled(without_median(drawn)).flatten(1).double()
    gram = x @ x.T
    weights = torch.linalg.inv(gram + subspace.RIDGE * gram.diagonal().mean() * torch.eye(count)) @ x
    told = own @ x.T @ weights
    assert (pooled(left).flatten(1) - (own - told)).norm() < 0.03 * told.norm()  # in steps of a byte


def test_the_components_are_the_principal_ones():
    images = normals(40, ways=6)
    found = fitted(images)
    wanted = TruncatedSVD(6, algorithm="arpack").fit(pooled(without_median(images)).flatten(1).numpy())
    ours = found.components.float()[-6:].flip(0).numpy()
    assert np.abs((ours * wanted.components_).sum(1)) == pytest.approx(np.ones(6), abs=0.01)
    energy = pooled(without_median(images)).flatten(1).square().sum(1).mean().item()
    values = wanted.singular_values_**2
    assert found.gain[-6:].flip(0).numpy() == pytest.approx(values / (values + subspace.RIDGE * energy), abs=1e-3)


def test_a_way_in_which_normal_images_differ_is_explained_and_a_defect_is_not():
    model = fitted(normals(60))
    another = without_median(normals(1, seed=9))
    left = model.unexplained(another)
    assert left.square().sum() < 0.1 * another.square().sum()
    struck = another.clone()
    struck[0, :, 3, 4] += 10
    assert (model.unexplained(struck) - left)[0, :, 3, 4].mean() > 9


@pytest.mark.parametrize("side", [3, 4])
def test_the_median_is_that_of_each_image_and_feature(side):
    drawn = torch.randn(2, 3, side, side)
    median = drawn.flatten(2).sort(2).values[..., (side * side - 1) // 2]
    assert torch.equal(without_median(drawn), drawn - median[..., None, None])


def test_finer_grids_lose_what_is_explained_by_interpolation():
    """Twice SIDE places along each side: a smooth way is explained at all of them."""
    side = 2 * subspace.SIDE
    ramp = torch.linspace(-1, 1, side).expand(1, 2, side, side)
    images = torch.randn(20, 1, 1, 1) * ramp + 0.01 * torch.randn(20, 2, side, side)
    assert fitted(images).unexplained(3 * ramp).square().mean() < 0.01 * (3 * ramp).square().mean()


def test_normal_images_that_took_no_part_are_about_one_in_every_map():
    whole, parts = cross_fitted(normals(200).half())
    for model in (whole, *parts):
        for name, found in model.maps(normals(50, seed=3), NAMES).items():
            assert found.square().mean().item() == pytest.approx(1, abs=0.2), name


def test_a_folds_subspace_has_no_part_of_its_images():
    images = normals(25)
    other = images.clone()
    other[2::5] = torch.randn(5, 5, 8, 8)
    ours, theirs = (cross_fitted(each)[1] for each in (images, other))
    assert torch.equal(ours[2].subspace.components, theirs[2].subspace.components)
    assert not torch.equal(ours[1].subspace.components, theirs[1].subspace.components)


def test_folds_share_the_sums_and_each_lacks_its_own(monkeypatch):
    """With nothing explained, a fold's statistics are those of the other images by themselves."""
    monkeypatch.setattr(subspace, "NOTHING", 1e9)
    images = normals(30)
    left = cross_fitted(images)[1][4]
    alone = cross_fitted(torch.cat([images[k::5] for k in range(4)]), 4)[0]
    for name in ("mean", "spread", "variance"):
        assert torch.allclose(getattr(left, name), getattr(alone, name), atol=1e-5), name
    assert torch.allclose(left.factor, alone.factor, atol=0.1)  # in steps
    assert torch.allclose(left.wide.mean, alone.wide.mean, atol=1e-2)  # the whitening is that of all images


def test_what_is_stored_measures_the_same(tmp_path):
    model, _ = cross_fitted(normals(20))
    save_file(model.tensors(), tmp_path / "normality.safetensors")
    again = Normality.restored(load_file(tmp_path / "normality.safetensors"), CPU)
    ours, theirs = (each.maps(normals(3, seed=4), NAMES) for each in (model, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in NAMES)


def test_images_that_are_all_the_same_are_no_error():
    for images in (torch.zeros(10, 5, 8, 8), torch.randn(1, 5, 8, 8).expand(10, -1, -1, -1)):
        whole, _ = cross_fitted(images)
        maps = whole.maps(torch.cat([images[:1], torch.randn(1, 5, 8, 8)]), NAMES)
        for name in ("residual", "deviation", "mahalanobis", "layers"):
            same, other = maps[name]
            assert same.isfinite().all() and other.isfinite().all() and other.mean() > 10 * same.mean(), name
        assert maps["wide"].isfinite().all()


@pytest.mark.parametrize("count", [3, 4])
def test_too_few_images_say_nothing_of_a_covariance(count):
    with pytest.raises(ValueError, match="too few"):
        cross_fitted(normals(count))
