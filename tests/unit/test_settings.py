"""Settings are read once, whole, and a wrong one is told with the nearest right one."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from components import settings
from components.errors import UserError
from tests.conftest import REPO

YAML_FILE = YAML(typ="safe")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "settings").mkdir()
    for path in (REPO / "params.yaml", REPO / "dvc.yaml", *(REPO / "settings").glob("*.yaml")):
        (tmp_path / path.relative_to(REPO)).write_text(path.read_text())
    override(tmp_path, {})
    return tmp_path


def override(root: Path, block: dict[str, object], **top: object) -> None:
    params = {"settings": "standard", "seed": 7, "categories": ["nut"], "overrides": {"nut": block}} | top
    with (root / "params.yaml").open("w") as file:
        YAML_FILE.dump(params, file)


def change(root: Path, section: str, **values: object) -> None:
    path = root / "settings" / "standard.yaml"
    loaded = YAML_FILE.load(path.read_text())
    loaded[section] |= values
    with path.open("w") as file:
        YAML_FILE.dump(loaded, file)


def refused(root: Path, category: str = "nut") -> str:
    with pytest.raises(UserError) as caught:
        settings.load(root, category)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["standard", "paper"])
def test_the_projects_own_settings_are_complete(root: Path, name: str) -> None:
    override(root, {}, settings=name)
    loaded = settings.load(root, "nut")
    assert (loaded.category, loaded.seed) == ("nut", 7)
    assert loaded.dataset.size == 256
    assert 0 < loaded.dataset.val_fraction + loaded.dataset.calib_fraction < 1


def test_the_projects_own_params_load() -> None:
    for category in settings.read_params(REPO)["categories"]:
        assert settings.load(REPO, category).category == category


def test_an_override_changes_one_value_of_one_category(root: Path) -> None:
    before = settings.load(root, "nut")
    override(root, {"vqvae": {"steps": 3}, "promotion": {"policy": "auto"}})
    after = settings.load(root, "nut")
    assert (after.vqvae.steps, after.promotion.policy) == (3, "auto")
    assert (after.prior, after.vqvae.batch) == (before.prior, before.vqvae.batch)


def test_settings_are_frozen(root: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        settings.load(root, "nut").vqvae.steps = 1  # type: ignore[misc]


def test_an_unknown_setting_offers_the_nearest(root: Path) -> None:
    override(root, {"vqvae": {"codebok_size": 3}})
    assert "overrides.nut.vqvae has an unknown setting 'codebok_size' (did you mean 'codebook_size'?)" in refused(root)
    override(root, {"vqae": {}})
    assert "unknown setting 'vqae' (did you mean 'vqvae'?)" in refused(root)
    override(root, {}, sed=1)
    assert "params.yaml has an unknown setting 'sed' (did you mean 'seed'?)" in refused(root)
    override(root, {})
    change(root, "prior", learning_rat=0.1)
    assert "settings/standard.yaml prior has an unknown setting 'learning_rat' (did you mean" in refused(root)


def test_a_setting_like_no_other_lists_what_is_valid(root: Path) -> None:
    override(root, {"promotion": {"zzz": 1}})
    assert "(valid: policy)" in refused(root)


def test_an_unknown_category_offers_the_nearest(root: Path) -> None:
    assert "category 'nnut' is not in params.yaml (did you mean 'nut'?)" in refused(root, "nnut")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("dataset", {"size": "large"}, "dataset.size is 'large'; it must be a int"),
        ("dataset", {"size": 25.6}, "dataset.size is 25.6"),
        ("dataset", {"size": True}, "dataset.size is True"),
        ("vqvae", {"beta": "1e"}, "vqvae.beta is '1e'; it must be a float"),
        ("calibrate", {"etas": []}, "calibrate.etas is []; it must be a "),
        ("calibrate", {"neighbour_rule": 1}, "calibrate.neighbour_rule is 1; it must be a bool"),
        ("augment", {"policy": "wild"}, "augment.policy is 'wild'; use one of object, rotation_free, texture"),
        ("promotion", {"policy": "never"}, "promotion.policy is 'never'; use one of auto, manual"),
    ],
)
def test_values_of_the_wrong_kind(root: Path, section: str, values: dict[str, object], message: str) -> None:
    override(root, {section: values})
    assert message in refused(root)


def test_whole_numbers_serve_as_fractions(root: Path) -> None:
    override(root, {"augment": {"degrees": 5}})
    degrees = settings.load(root, "nut").augment.degrees
    assert (degrees, type(degrees)) == (5.0, float)


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "settings" / "standard.yaml").write_text("dataset: {size: 256}\n")
    assert "settings/standard.yaml dataset lacks 'val_fraction'; add it" in refused(root)
    (root / "params.yaml").write_text("settings: standard\n")
    assert "params.yaml lacks 'seed'" in refused(root)
    override(root, {}, settings="fast")
    assert "fast.yaml does not exist" in refused(root)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n", "\t: x"])
def test_a_file_that_is_no_yaml_mapping(root: Path, text: str) -> None:
    (root / "params.yaml").write_text(text)
    assert "params.yaml" in refused(root)


def test_the_root_is_the_nearest_workspace_above(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (root / "a" / "b").mkdir(parents=True)
    assert settings.find_root(root / "a" / "b") == root.resolve()
    with pytest.raises(UserError, match="not inside a Kintsugi workspace"):
        settings.find_root(tmp_path_factory.mktemp("elsewhere"))


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("dataset", {"size": 250}, r"dataset.size is 250; .* multiple of 8"),
        ("vqvae", {"downsample": 6}, r"downsample is 6; it must be a power of two"),
        ("vqvae", {"steps": 0}, r"vqvae.steps is 0; it must be 1 or more"),
        ("prior", {"heads": 3}, r"prior.channels is 64; it must be a multiple of prior.heads, 3"),
        ("prior", {"dropout": 1.0}, r"prior.dropout is 1.0; it is a share and must be below 1"),
        ("vqvae", {"zoom": 0.5}, r"zoom is 0.5; it must be 1 to 4"),
        ("vqvae", {"zoom": 5}, r"zoom is 5; it must be 1 to 4"),
        ("prior", {"orders": 3}, r"orders is 3; it must be 1, 2 or 4"),
        ("calibrate", {"etas": [0.1, -0.1]}, r"etas is \(0.1, -0.1\); it must be 0 or more"),
        (
            "calibrate",
            {"score": "restord"},
            r"score is 'restord', which models over pixels have not; use auto or one of",
        ),
        ("calibrate", {"score": "layers"}, r"score is 'layers', which models over pixels have not"),
    ],
)
def test_what_could_not_be_built_is_told_before_the_training(
    root: Path, section: str, values: dict[str, object], told: str
) -> None:
    change(root, section, **values)
    assert re.search(told, refused(root))


@pytest.mark.parametrize("name", ["standard", "paper"])
@pytest.mark.parametrize("latent", settings.LATENTS)
@pytest.mark.parametrize("allocation", settings.ALLOCATIONS)
def test_every_choice_goes_with_every_settings_file(root: Path, name: str, latent: str, allocation: str) -> None:
    override(root, {"vqvae": {"latent": latent, "allocation": allocation}}, settings=name)
    assert settings.load(root, "nut").vqvae.latent == latent
