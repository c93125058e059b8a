"""The packaged model: what is inspected, what a damaged bundle does, images of every depth."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.arrays import to_tensor
from components.calibrate import least_likelihoods
from components.errors import UserError
from components.inspector import Inspector
from components.restore import restore
from tests.artifacts_fixture import write_bundle


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    write_bundle(folder)
    return folder


def image(size=(70, 50), channels=1, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (*size, channels)).astype(dtype)


def test_an_inspection_is_whole_and_consistent(package):
    inspector = Inspector.load(package)
    for found in inspector.inspect([image(), image((40, 90))]):
        size = inspector.image_size
        assert found.score_map.shape == found.mask.shape == (size, size)
        assert found.restored.shape == found.reconstructed.shape == (size, size, 3)
        assert found.anomalous == (found.score > inspector.image_threshold) == bool(found.mask.any())
        assert ((found.likelihood >= 0) & (found.likelihood <= 1)).all()


@pytest.mark.parametrize("score", ["likelihood", "restored"])
def test_restored_codes_are_the_same_whether_the_score_needed_them_or_not(package, score):
    inspector = Inspector.load(package)
    inspector.calibration["score"] = score
    detector = inspector.detector = dataclasses.replace(inspector.detector, eta=0.3, neighbour_rule=False)
    for found in inspector.inspect([image(), image((40, 90))]):
        grid = torch.from_numpy(found.codes)[None]
        theirs = restore(detector.prior, grid, detector.eta, detector.neighbour_rule).codes[0].numpy()
        assert (found.restored_codes == theirs).all() and (theirs != found.codes).any()


def test_an_image_scores_the_same_alone_and_in_a_batch(package):
    inspector = Inspector.load(package)
    images = [np.roll(image(), shift, 0) for shift in range(5)]
    together = [found.score for found in inspector.inspect(images)]
    alone = [inspector.inspect([one])[0].score for one in images]
    assert together == pytest.approx(alone, rel=1e-3, abs=1e-3)


def test_drift_compares_like_with_like(package):
    inspector = Inspector.load(package)
    normals = np.stack([np.roll(image((64, 64), 3), shift, 0) for shift in range(5)])
    # Fresh from their constructors the encoder gives one code for everything, and the prior finds all codes alike.
    vqvae, noise = inspector.detector.vqvae, torch.Generator().manual_seed(0)
    z = vqvae.encoder(to_tensor(normals[:1], 255.0, torch.device("cpu"))).flatten(2)[0].T.detach()
    vqvae.codebook.vectors.data = z[: len(vqvae.codebook.vectors)].clone()
    for parameter in inspector.detector.prior.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=noise)
    calibrated = least_likelihoods(inspector.detector, normals, 255.0, torch.device("cpu"))
    inspected = [float(found.likelihood.min()) for found in inspector.inspect(list(normals))]
    assert len(set(calibrated)) > 1
    assert calibrated == pytest.approx(inspected, rel=0.02)


def test_depth_and_colour_do_not_change_what_is_seen(package):
    inspector = Inspector.load(package)
    grey = image(dtype=np.uint8)
    variants = [grey, grey.astype(np.uint16) * 257, np.repeat(grey, 3, axis=2)]
    scores = [found.score for found in inspector.inspect(variants)]
    assert scores == pytest.approx([scores[0]] * 3, rel=0.02, abs=0.02)


def test_damaged_weights_are_refused(package):
    weights = package / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        Inspector.load(package)


def test_a_foreign_format_is_refused(package):
    path = package / "bundle.json"
    bundle = json.loads(path.read_text())
    path.write_text(json.dumps(bundle | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        Inspector.load(package)


def test_missing_files_are_told(package):
    (package / "model.safetensors").unlink()
    with pytest.raises(UserError, match="does not exist"):
        Inspector.load(package)


def test_a_bundle_from_before_there_was_a_choice_of_latent_still_loads(package):
    path = package / "bundle.json"
    bundle = json.loads(path.read_text())
    assert bundle["vqvae"]["config"].pop("latent") == "pixels"
    path.write_text(json.dumps(bundle))
    assert not Inspector.load(package).detector.over_features
