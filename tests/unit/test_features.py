"""Features in place of pixels: the folded backbone, what is normal at a place, the model, and the whole way."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.spatial.distance import mahalanobis

from components import settings as settings_of
from components import stage
from components.device import autocast, fast_dtype
from components.errors import UserError
from components.features import backbone
from components.features.model import FEATURES, FeatureVQVAE
from components.inspector import Inspector
from components.normality import model as normality
from components.normality import sums
from components.normality.subspace import Subspace, pooled, without_median
from components.normality.wide import Wide, blocks, whitening
from components.outline import marked
from components.stage import MODULES
from tests.artifacts_fixture import REPO
from tests.tiny import edit
from tests.unit.test_vqvae import CONFIG as VQVAE_CONFIG

CPU = torch.device("cpu")
CONFIG = dataclasses.replace(VQVAE_CONFIG, latent="features", downsample=8)


def published(seed: int = 0) -> dict[str, torch.Tensor]:
    """Drawn weights under the names of the published file, batch normalisation still apart."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, norm: str, module: torch.nn.Conv2d) -> None:
        fan = module.weight[0].numel()
        state[f"{name}.weight"] = torch.randn(module.weight.shape, generator=draw) * (2 / fan) ** 0.5
        for key, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.2, 0.2),
            ("running_mean", -1, 1),
            ("running_var", 0.5, 2),
        ):
            state[f"{norm}.{key}"] = low + (high - low) * torch.rand(module.out_channels, generator=draw)

    model = backbone.Backbone()
    convolution("_conv_stem", "_bn0", model.stem)
    for index, block in enumerate(model.blocks):
        if block.expand is not None:
            convolution(f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0", block.expand)
        convolution(f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1", block.depthwise)
        convolution(f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2", block.project)
    return state


def reference(state: dict[str, torch.Tensor], x: torch.Tensor) -> dict[int, torch.Tensor]:
    """The network as it was published: normalisation apart from convolution."""

    def layer(x: torch.Tensor, name: str, norm: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        total = max(weight.shape[-1] - stride, 0)  # TensorFlow's SAME padding for sides that the stride divides
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] if weight.shape[1] == 1 else 1)
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{norm}.{key}"] for key in keys), eps=backbone.EPSILON)

    side, found = x.shape[-1], {}
    x = F.relu6(layer((x - backbone.MEAN) / backbone.SCALE, "_conv_stem", "_bn0", 2))
    index = 0
    for _, stride, expansion, wanted, repeats in backbone.STAGES:
        for repeat in range(repeats):
            name, before, step = f"_blocks.{index}", x, stride if repeat == 0 else 1
            if expansion > 1:
                x = F.relu6(layer(x, f"{name}._expand_conv", f"{name}._bn0"))
            x = F.relu6(layer(x, f"{name}._depthwise_conv", f"{name}._bn1", step))
            x = layer(x, f"{name}._project_conv", f"{name}._bn2")
            if step == 1 and before.shape[1] == wanted:
                x = x + before
            index += 1
            found[side // x.shape[-1]] = x
    return {stride: found[stride] for stride in backbone.CHANNELS}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(published(), path)
    monkeypatch.setenv(backbone.WEIGHTS, str(path))
    return path


def test_the_folded_network_sees_what_the_published_one_sees(weights):
    x = torch.rand(2, 3, 64, 64)
    ours, theirs = backbone.pretrained()(x), reference(published(), x)
    assert ours.keys() == theirs.keys()
    for stride, channels in backbone.CHANNELS.items():
        assert ours[stride].shape == (2, channels, 64 // stride, 64 // stride)
        assert torch.allclose(ours[stride], theirs[stride], rtol=1e-3, atol=1e-3 * theirs[stride].abs().max())


def test_weights_that_are_not_there_or_not_these_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv(backbone.WEIGHTS, str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"none\.pth, which is not a file"):
        backbone.pretrained()
    torch.save({"layer": torch.zeros(3)}, tmp_path / "other.pth")
    monkeypatch.setenv(backbone.WEIGHTS, str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match="does not hold EfficientNet-Lite0's weights"):
        backbone.pretrained()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("downsample", [4, 8, 16])
def test_the_model_gives_codes_pictures_and_features_of_the_right_shape(channels, downsample):
    model = FeatureVQVAE(channels, dataclasses.replace(CONFIG, downsample=downsample)).eval()
    x = torch.rand(2, channels, 64, 64)
    codes = model.encode(x)
    side = 64 // downsample
    assert codes.shape == (2, side, side)
    assert model.decode(codes).shape == x.shape
    assert model.features(x).shape == model.expected(codes).shape == (2, FEATURES, side, side)


@given(zoom=st.floats(1, 4), cells=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_the_backbone_sees_whole_cells_about_zoom_times_as_many(zoom, cells):
    model = FeatureVQVAE(1, dataclasses.replace(CONFIG, zoom=zoom))
    side = 16 * cells
    seen = model.enlarged(torch.full((1, 1, side, side), 0.25)).shape[-1]
    assert seen % 16 == 0
    assert abs(seen - zoom * side) <= 8
    if seen == side:
        x = torch.rand(1, 1, side, side)
        assert torch.equal(model.enlarged(x), x)


def test_enlarged_images_give_as_many_places(weights):
    """Seen twice as large, a picture has the features of its enlargement, averaged to the same grid."""
    model = FeatureVQVAE(3, dataclasses.replace(CONFIG, zoom=2.0))
    model.backbone.load_state_dict(backbone.pretrained().state_dict())
    x = torch.rand(1, 3, 64, 64)
    seen = model.features(x)
    assert seen.shape == (1, FEATURES, 8, 8)
    large = F.interpolate(x, size=(128, 128), mode="bilinear", align_corners=False)
    plain = FeatureVQVAE(3, dataclasses.replace(CONFIG, downsample=16))
    plain.backbone.load_state_dict(backbone.pretrained().state_dict())
    assert torch.equal(seen, plain.features(large))


@pytest.mark.skipif(fast_dtype(CPU) != torch.bfloat16, reason="the fused convolution is for CPUs with bfloat16")
@pytest.mark.parametrize("drawn", [(3, 32, 3, 2, 1), (24, 144, 1, 1, 1), (144, 144, 5, 2, 144), (40, 40, 3, 1, 40)])
def test_a_convolution_with_its_activation_is_the_two_to_the_last_bit(drawn, monkeypatch):
    given, wanted, kernel, stride, groups = drawn
    torch.manual_seed(0)
    layer = backbone.Same(given, wanted, kernel, stride, groups).requires_grad_(False)
    x = 5 * torch.randn(2, given, 33, 33).to(memory_format=torch.channels_last)
    with autocast(CPU), torch.no_grad():
        together, apart = layer.activated(x), F.relu6(layer(x))
        monkeypatch.setattr(backbone.Same, "forward", lambda *_: pytest.fail("the fused one has no other way"))
        layer.activated(x)
    assert together.dtype == apart.dtype == torch.bfloat16
    assert torch.equal(together, apart) and 0 < (apart == 6).float().mean() < 1


def test_features_are_standardised_and_the_backbone_stays_as_it_is(weights):
    torch.manual_seed(0)
    model = FeatureVQVAE(3, CONFIG)
    model.backbone.load_state_dict(backbone.pretrained().state_dict())
    x = torch.rand(8, 3, 64, 64)
    model.standardise(x)
    seen = model.features(x)
    assert seen.mean((0, 2, 3)).abs().max() < 1e-3
    assert (seen.std((0, 2, 3)) - 1).abs().max() < 1e-2
    model.train()
    assert not model.backbone.training
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.losses(x)[0].backward()
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_the_picture_teaches_the_codes_nothing():
    torch.manual_seed(0)
    model = FeatureVQVAE(3, CONFIG).train()
    x = torch.rand(2, 3, 64, 64)
    loss, error, *_ = model.losses(x)
    (loss - error).backward()  # what is left is the picture's
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.picture.parameters())


def measured(residuals: torch.Tensor) -> normality.Normality:
    """What normal residuals (N, F, s, s) say of places and blocks by themselves: nothing is explained by all."""
    own = without_median(residuals)
    fine = sums.Sums.of(normality.by_place(own))
    white = whitening(fine)
    nothing = Subspace(torch.zeros(0, pooled(own).flatten(1).shape[1]), torch.zeros(0))
    return normality.Normality.fitted(nothing, fine, Wide.fitted(white, sums.Sums.of(blocks(own, white))))


def apart(residual):
    """(B, F, h, w) to float64 (h * w, B, F) without each image's (lower) median over the places."""
    flat = residual.double().flatten(2).numpy()
    middle = np.sort(flat, axis=2)[:, :, [(flat.shape[2] - 1) // 2]]
    return (flat - middle).transpose(2, 0, 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_the_distance_is_mahalanobis_at_each_place(seed):
    torch.manual_seed(seed)
    mixed = torch.randn(60, 5, 3, 3) @ torch.randn(3, 3) + torch.randn(5, 1, 1)
    fitted = measured(mixed)
    drawn = torch.randn(4, 5, 3, 3)
    found = fitted.maps(drawn, ("mahalanobis",))["mahalanobis"]
    places = apart(mixed)
    own = np.stack([np.cov(place.T, bias=True) for place in places])
    pooled = own.mean(0)
    ridge = sums.RIDGE * np.diag(pooled).mean() * np.eye(5)
    for place in range(9):
        trust = normality.POOLED / (60 + normality.POOLED)
        inverse = np.linalg.inv((1 - trust) * own[place] + trust * pooled + ridge)
        for image in range(4):
            wanted = mahalanobis(apart(drawn)[place, image], places[place].mean(0), inverse) / np.sqrt(5)
            assert found[image, place // 3, place % 3].item() == pytest.approx(wanted, rel=2e-2)


def test_layers_are_the_fine_features_alone_and_the_coarse_ones_given_them(monkeypatch):
    """The chain rule: the distance of all is that of the fine ones (the last) plus what the coarse ones add."""
    monkeypatch.setattr(normality, "COARSE", 3)
    torch.manual_seed(1)
    mixed = torch.einsum("nchw,cd->ndhw", torch.randn(400, 5, 3, 3), torch.randn(5, 5))
    fitted = measured(mixed)
    drawn = torch.randn(6, 5, 3, 3)
    found = fitted.maps(drawn, ("mahalanobis", "layers"))
    inverse = (fitted.factor @ fitted.factor.mT).double()
    centred = torch.from_numpy(apart(drawn)) - fitted.mean[:, None].double()
    every = torch.einsum("pnc,pcd,pnd->np", centred, inverse, centred)
    marginal = torch.linalg.inv(torch.linalg.inv(inverse)[:, 3:, 3:])
    fine = torch.einsum("pnc,pcd,pnd->np", centred[..., 3:], marginal, centred[..., 3:])
    wanted = ((fine / 2).sqrt() + ((every - fine) / 3).sqrt()) / 2
    assert torch.allclose(found["layers"].reshape(6, 9).double(), wanted, rtol=1e-3)
    assert torch.allclose(found["mahalanobis"].reshape(6, 9).double(), (every / 5).sqrt(), rtol=1e-3)


def test_normal_residuals_are_about_one_in_every_map(monkeypatch):
    monkeypatch.setattr(normality, "COARSE", 4)
    torch.manual_seed(0)
    normal = torch.randn(200, 6, 4, 4) * torch.rand(6, 1, 1).add(0.5)
    names = ("residual", "deviation", "mahalanobis", "layers")
    maps = measured(normal).maps(normal, names)
    for name, found in maps.items():
        assert found.square().mean().item() == pytest.approx(1, abs=0.15), name


@given(st.integers(0, 10**6), st.floats(-3, 3))
@settings(max_examples=10, deadline=None)
def test_what_a_whole_image_shares_moves_no_map(seed, shift):
    torch.manual_seed(seed)
    fitted = measured(torch.randn(20, 6, 3, 3))
    drawn, names = torch.randn(2, 6, 3, 3), ("residual", "deviation", "mahalanobis")
    plain, lit = fitted.maps(drawn, names), fitted.maps(drawn + shift * torch.randn(2, 6, 1, 1), names)
    assert all(torch.allclose(plain[name], lit[name], rtol=1e-2, atol=1e-3) for name in names)


def workspace(root: Path, latent: str) -> Path:
    (root / "settings").mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "settings/standard.yaml"):
        (root / name).write_text((REPO / name).read_text())
    small = {
        "dataset": {"size": 64, "val_fraction": 0.2, "calib_fraction": 0.3, "min_images": 5},
        "augment": {"images": 16},
        "calibrate": {"etas": [0.0005, 0.005], "negatives": 2, "images": 4, "min_area": 0.004},
        "features": {
            "vqvae": {"channels": 8, "residual_blocks": 1, "codebook_size": 16, "code_dim": 4, "steps": 6, "batch": 8},
            "prior": {"channels": 8, "blocks": 1, "residual_layers": 1, "steps": 6, "batch": 8},
        },
    }
    edit(root / "settings/standard.yaml", lambda s: [s[name].update(values) for name, values in small.items()])
    block = {"brick": {"vqvae": {"latent": latent}}}
    edit(root / "params.yaml", lambda p: p.update(categories=["brick"], overrides=block))
    rng = np.random.default_rng(0)
    for kind, count in (("train/good", 24), ("test/good", 2), ("test/spot", 2)):
        folder = root / "data" / "brick" / kind
        folder.mkdir(parents=True)
        for number in range(count):
            image = cv2.GaussianBlur(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), (0, 0), 2)
            image[20:40, 20:40] = 255 if kind == "test/spot" else image[20:40, 20:40]
            assert cv2.imwrite(str(folder / f"{number}.png"), image)
    return root


def test_the_section_of_features_counts_only_over_features(tmp_path):
    over_features = settings_of.load(workspace(tmp_path / "a", "features"), "brick")
    over_pixels = settings_of.load(workspace(tmp_path / "b", "pixels"), "brick")
    assert (over_features.vqvae.steps, over_features.prior.steps) == (6, 6)
    assert over_pixels.vqvae.steps == 1400
    edit(tmp_path / "a/params.yaml", lambda p: p["overrides"]["brick"]["vqvae"].update(steps=9))
    assert settings_of.load(tmp_path / "a", "brick").vqvae.steps == 9, "a category's own value wins"
    edit(tmp_path / "a/settings/standard.yaml", lambda s: s["features"]["vqvae"].update(step=1))
    with pytest.raises(UserError, match=r"features\.vqvae has an unknown setting 'step'"):
        settings_of.load(tmp_path / "a", "brick")


def test_the_whole_way_over_features(tmp_path, weights):
    import importlib

    root = workspace(tmp_path / "w", "features")
    loaded = settings_of.load(root, "brick")
    for name in stage.STAGES:
        importlib.import_module(MODULES[name]).run(root, loaded)
    facts = stage.read_json(root / "artifacts/brick/train_vqvae/summary.json")
    assert facts["backbone"] == stage.file_sha256(weights), "the lineage names the backbone's bytes"
    metrics = json.loads((root / "artifacts/brick/evaluate/metrics.json").read_text())
    assert metrics["image_auroc"] == pytest.approx(1.0)
    weights.unlink()  # serving needs nothing but the package
    package = root / "artifacts/brick/package"
    inspector = Inspector.load(package)
    images = [cv2.imread(str(path)) for path in sorted((root / "data/brick/test").glob("*/*.png"))]
    together, alone = inspector.inspect(images), [inspector.inspect([image])[0] for image in images]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], rel=1e-3)
    assert all(one.restored.shape == (64, 64, 3) for one in together)
    assert 0 < inspector.reach == inspector.calibration["reach"], "measured by the calibration"
    drawn = [marked(one.score_map, inspector.pixel_threshold, inspector.min_area, inspector.reach) for one in together]
    assert np.array_equal([one.mask for one in together], drawn)
    assert all(one.mask.any() == one.anomalous for one in together) and any(one.anomalous for one in together)
    assert inspector.calibration["parts"] > 0
    assert f"the normal images show {inspector.calibration['parts']} parts" in metrics["protocol"]
    stored, bundle = load_file(package / "model.safetensors"), json.loads((package / "bundle.json").read_text())
    save_file({name: one for name, one in stored.items() if ".subspace" not in name}, package / "model.safetensors")
    bundle["sha256"] = stage.file_sha256(package / "model.safetensors")
    (package / "bundle.json").write_text(json.dumps(bundle))
    with pytest.raises(UserError, match="of an older version; run `kintsugi run brick` again"):
        Inspector.load(package)
