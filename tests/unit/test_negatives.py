"""Synthetic negatives: only the mask changes, and it changes visibly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from components.negatives import HARD, TELLING, dot, make, rectangle, veil

PAINTERS = {"rectangle": rectangle, "dot": dot} | HARD


def normals(channels=3, dtype=np.uint8):
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((4, 64, 64, channels)), (0, 4, 4, 0))
    full = np.iinfo(dtype).max
    return ((smooth - smooth.min()) / np.ptp(smooth) * full).astype(dtype), float(full)


@pytest.mark.parametrize("kind", PAINTERS)
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (1, np.uint16)])
def test_nothing_changes_outside_the_mask(kind, channels, dtype):
    images, white = normals(channels, dtype)
    painted, masks = make(images, PAINTERS[kind], white, seed=3)
    assert painted.dtype == dtype and painted.shape == images.shape
    assert masks.any(axis=(1, 2)).all()
    assert (painted[~masks] == images[~masks]).all()
    changed = np.abs(painted.astype(float) - images).max(-1) / white
    assert all(changed[i][masks[i]].mean() > 0.03 for i in range(4))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), area=st.floats(0.002, 0.1))
def test_a_rectangle_covers_the_asked_share(seed, area):
    image = np.full((256, 256, 1), 0.8, np.float32)
    _, mask = rectangle(image, image, np.random.default_rng(seed), area)
    assert mask.mean() == pytest.approx(area, rel=0.15)


def test_fractions_of_white_are_refused_not_rounded_to_black_and_white():
    images, white = normals()
    with pytest.raises(ValueError, match="float32"):
        make((images / white).astype(np.float32), rectangle, 1.0, 0)


def test_the_same_seed_paints_the_same():
    images, white = normals()
    for painter in (PAINTERS | TELLING).values():
        assert (make(images, painter, white, 5)[0] == make(images, painter, white, 5)[0]).all()
        assert (make(images, painter, white, 5)[0] != make(images, painter, white, 6)[0]).any()


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_a_veil_is_large_soft_and_weak(seed):
    image = np.random.default_rng(seed).random((128, 128, 1)).astype(np.float32) * 0.5 + 0.25
    painted, mask = veil(image, image, np.random.default_rng(seed))
    change = np.abs(painted - image)
    assert 0.01 < mask.mean() < 0.6
    assert 0 < change.max() <= 0.5 and painted.min() >= 0 and painted.max() <= 1
    assert change[mask].mean() > change[~mask].mean()


def test_a_veil_is_painted_until_it_shows():
    images, white = normals()
    painted, masks = make(images, veil, white, seed=1)
    changed = np.abs(painted.astype(float) - images).mean(-1) / white
    assert all(changed[i][masks[i]].mean() > 0.03 for i in range(4)), "asked again until it shows"


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), area=st.floats(1e-6, 0.01))
def test_a_dot_has_its_area_and_room_around_it(seed, area):
    image = np.full((128, 128, 3), 0.3, np.float32)
    painted, mask = dot(image, image, np.random.default_rng(seed), area)
    assert mask.any() and abs(mask.sum() - area * 128**2) <= 2 + 4 * np.sqrt(area * 128**2)
    assert (painted[mask] == 1.0).all() and (painted[~mask] == image[~mask]).all()
    rows, columns = np.nonzero(mask)
    assert 25 <= rows.mean() <= 103 and 25 <= columns.mean() <= 103
