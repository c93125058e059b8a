"""The differential mode: equal pictures do not differ, a defect does, a shift by a cell does not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from components.difference import compare, nearest, relative, spacing
from components.explain import patches
from components.features.model import FeatureVQVAE
from components.inspector import Inspector
from components.settings import VQVAE
from tests.artifacts_fixture import write_bundle


@pytest.fixture(scope="module")
def inspector(tmp_path_factory) -> Inspector:
    folder: Path = tmp_path_factory.mktemp("bundle") / "package"
    write_bundle(folder)
    return Inspector.load(folder)


def picture(seed: int = 0) -> np.ndarray:
    smooth = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    return smooth.repeat(8, 0).repeat(8, 1)


def test_a_picture_does_not_differ_from_itself(inspector):
    found = compare(inspector, picture(), [picture()])
    assert found.score == 0 and not found.differs and found.changed == 0 and not found.mask.any()
    assert found.score_map.shape == (64, 64) and found.score_map.dtype == np.float32


def test_a_defect_differs_where_it_is(inspector):
    marred = picture()
    marred[24:40, 24:40] = 255 - marred[24:40, 24:40]
    found = compare(inspector, marred, [picture()], threshold=1e-5)  # untrained networks see little
    inside = found.score_map[20:44, 20:44]
    assert found.differs and found.mask[24:40, 24:40].any() and inside.max() == found.score_map.max()
    assert found.score_map[:8].max() < inside.max() / 2


def test_one_similar_reference_is_enough(inspector):
    alone = compare(inspector, picture(), [picture(1)])
    together = compare(inspector, picture(), [picture(1), picture()])
    assert alone.score > 0 and together.score == 0 and together.changed == 0


def test_codes_of_features_are_compared_and_explained_like_codes_of_pixels(inspector):
    torch.manual_seed(0)
    config = VQVAE(**(inspector.bundle["vqvae"]["config"] | {"latent": "features"}))
    over = FeatureVQVAE(3, config).eval()
    detector = dataclasses.replace(inspector.detector, vqvae=over)
    reader = Inspector(inspector.bundle, detector, inspector.device)
    assert compare(reader, picture(), [picture()]).score == 0
    assert compare(reader, picture(), [picture(1)]).score_map.shape == (64, 64)
    codes = torch.zeros(8, 8, dtype=torch.int64)
    assert patches(over.decode, codes, 3, 3, (1,))[0].shape == (40, 40, 3)


def test_a_shift_by_a_cell_is_no_difference():
    grid = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))
    shifted = torch.roll(grid, 1, 2)
    assert (nearest(shifted, grid)[:, 1:] < 1e-6).all()
    assert (nearest(torch.roll(grid, 2, 2), grid)[:, 2:] > 0).all()


def test_distances_are_measured_in_spacings_and_against_the_pairs_own_spread():
    assert spacing(torch.tensor([[0.0], [1.0], [3.0], [7.0]])) == pytest.approx(1.0)
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 10.0])
    assert relative(grid).tolist() == pytest.approx([0, 0, 0, 0.5, 9.0])
    assert relative(10 * grid)[-1] == pytest.approx(90 / (1.4826 * 5), rel=1e-5)
