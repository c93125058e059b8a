"""Synthetic negatives: only the mask changes, and it changes visibly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from components.negatives import HARD, make, rectangle

PAINTERS = {"rectangle": rectangle} | HARD


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
    for painter in PAINTERS.values():
        assert (make(images, painter, white, 5)[0] == make(images, painter, white, 5)[0]).all()
        assert (make(images, painter, white, 5)[0] != make(images, painter, white, 6)[0]).any()
