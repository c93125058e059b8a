"""`import` and `sample` as the command line runs them: files, params.yaml, Data Docs and a version of data/."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from components import settings
from components.errors import UserError
from flows import data, fixity, validated
from flows.adapters import versioning
from flows.server import exclusive
from tests.unit.dataset.pictures import picture, write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for i in range(60):
        write(folder / f"{i:02d}.png", picture(i))
    return folder


def state(root: Path) -> dict[str, bytes]:
    """Every byte that a refused import must leave alone."""
    kept = [root / "params.yaml", root / "data.dvc", *(root / "data").rglob("*")]
    return {str(p): p.read_bytes() for p in kept if p.is_file()}


def test_a_folder_becomes_a_versioned_category(workspace: Path, photos: Path) -> None:
    comments = [line for line in (workspace / "params.yaml").read_text().splitlines() if "#" in line]
    brick = settings.load(workspace, "brick")
    report = data.import_category(workspace, "folder", photos, "nut")
    assert (report.category, report.policy, report.counts) == ("nut", "object", {"train/good": 60})
    text = (workspace / "params.yaml").read_text()
    assert [line for line in text.splitlines() if "#" in line] == comments
    block = YAML(typ="safe").load(text)["overrides"]["nut"]
    assert set(block) == set(settings.SECTIONS), "dvc.yaml names each section"
    assert settings.load(workspace, "nut").augment.policy == "object"
    assert settings.load(workspace, "brick") == brick
    assert versioning.data_md5(workspace).endswith(".dir")
    assert (workspace / "audit" / "data" / "nut" / "index.html").is_file()
    kept = validated.read(workspace, "nut")
    assert kept is not None
    assert (kept["success"], kept["statistics"]["images"], kept["failures"]) == (True, 60, [])
    assert kept["data_md5"] == fixity.listing_md5(fixity.listing(workspace / "data" / "nut"))
    assert validated.read(workspace, "bolt") is None
    # A person's choices outlive a second import; asking for a policy changes it.
    params = text.replace("nut:\n    dataset: {}", "nut:\n    dataset: {min_images: 30}")
    assert params != text
    (workspace / "params.yaml").write_text(params)
    first = versioning.data_md5(workspace)
    write(photos / "60.png", picture(60))
    with pytest.raises(UserError, match="is there already"):
        data.import_category(workspace, "folder", photos, "nut")
    report = data.import_category(workspace, "folder", photos, "nut", policy="texture", replace=True)
    assert (report.policy, report.counts) == ("texture", {"train/good": 61})
    loaded = settings.load(workspace, "nut")
    assert (loaded.augment.policy, loaded.dataset.min_images) == ("texture", 30)
    assert versioning.data_md5(workspace) != first


def test_what_great_expectations_refuses_changes_nothing(workspace: Path, photos: Path) -> None:
    write(photos / "dark.png", np.zeros((40, 48, 3), np.uint8))
    before = state(workspace)
    with pytest.raises(UserError, match=r"refused nut: train/good/dark\.png is black or white all over; see"):
        data.import_category(workspace, "folder", photos, "nut")
    assert state(workspace) == before
    assert (workspace / "audit" / "data" / "nut" / "index.html").is_file()
    assert validated.read(workspace, "nut") is None
    (photos / "dark.png").unlink()
    data.import_category(workspace, "folder", photos, "nut")
    before, kept = state(workspace), validated.read(workspace, "nut")
    assert kept is not None and kept["success"]
    write(photos / "dark.png", np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(UserError, match="refused nut"):
        data.import_category(workspace, "folder", photos, "nut", replace=True)
    assert state(workspace) == before and validated.read(workspace, "nut") == kept, "the images are the same"


@pytest.mark.parametrize("kind", ["folder", "known"])
def test_images_do_not_change_under_a_training(workspace: Path, photos: Path, kind: str) -> None:
    data.register(workspace, "nut", "object")
    before = state(workspace)
    with exclusive(workspace / ".kintsugi/locks/nut.lock"), pytest.raises(UserError) as refused:
        data.import_category(workspace, kind, photos, "nut", replace=True)
    assert str(refused.value) == f"'nut' is being retrained by process {os.getpid()}; import them when it has ended"
    assert state(workspace) == before


def test_the_sample_is_made_once_and_then_kept(workspace: Path) -> None:
    before = (workspace / "params.yaml").read_text()
    report = data.add_sample(workspace)
    assert report.category == "brick"
    assert report.policy == settings.load(workspace, "brick").augment.policy
    assert (workspace / "params.yaml").read_text() == before, "the sample's settings are the project's own"
    first = versioning.data_md5(workspace)
    again = data.add_sample(workspace)
    assert again.counts == report.counts
    assert again.warnings == ("it was there already",)
    assert versioning.data_md5(workspace) == first
    write(workspace / "data" / "brick" / "train" / "good" / "landed.png", picture(1, 256, 256, 1))
    assert data.add_sample(workspace).counts["train/good"] == report.counts["train/good"] + 1
    assert (workspace / "data" / "brick" / "train" / "good" / "landed.png").is_file()


@pytest.mark.parametrize(
    ("kind", "category", "options", "line"),
    [
        ("mvtex", "nut", {}, "'mvtex' is no kind of data set; use one of mvtec, btad"),
        ("folder", "a b", {}, "'a b' cannot name a category"),
        ("mvtec", "nut", {"masks": Path("m")}, "--masks does not go with 'mvtec'"),
        ("folder", "nut", {"policy": "wild"}, "'wild' is no augmentation policy"),
        ("mvtec", "nut", {}, "holds no train/good for 'nut'"),
    ],
)
def test_wrong_arguments(
    workspace: Path, photos: Path, kind: str, category: str, options: dict[str, str], line: str
) -> None:
    before = state(workspace)
    with pytest.raises(UserError, match=line):
        data.import_category(workspace, kind, photos, category, **options)  # type: ignore[arg-type]
    assert state(workspace) == before


def test_no_git_is_said_before_anything_is_copied(tmp_path: Path, workspace: Path, photos: Path) -> None:
    shutil.rmtree(workspace / ".git")
    before = state(workspace)
    with pytest.raises(UserError, match="git"):
        data.import_category(workspace, "folder", photos, "nut")
    assert state(workspace) == before


def test_a_machine_without_a_category_hears_so_before_anything_is_copied(workspace: Path, photos: Path) -> None:
    data.import_category(workspace, "folder", photos, "nut")
    shutil.rmtree(workspace / "data" / "nut")
    before = state(workspace)
    with pytest.raises(UserError, match=r"^data/nut would be recorded as deleted"):
        data.import_category(workspace, "folder", photos, "bolt")
    assert state(workspace) == before
    data.import_category(workspace, "folder", photos, "nut")  # the one that is missing may come again
    assert state(workspace) != before


def test_the_first_category_of_an_empty_list(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("settings: standard\nseed: 0\ncategories:\noverrides:\n")
    data.register(workspace, "01", "texture")
    loaded = settings.load(workspace, "01")
    assert (loaded.category, loaded.augment.policy) == ("01", "texture")


def test_an_unknown_dataset_setting_is_named(workspace: Path) -> None:
    path = workspace / "settings" / "standard.yaml"
    path.write_text(path.read_text().replace("  min_images:", "  minimum: 3\n  min_images:"))
    with pytest.raises(UserError, match=r"settings/standard\.yaml dataset has an unknown setting 'minimum'"):
        data.dataset_settings(workspace, "new")
