"""What a version was made from: the images of one moment, and all the code that its scores come from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.errors import UserError
from flows import lineage
from tests.artifacts_fixture import Fabricator, make_workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_workspace(tmp_path / "plant")
    Fabricator(root)()
    return root


def rewrite(root: Path, **deps: str) -> None:
    """Give evaluate's entry in dvc.lock other dependencies: path (with __ for /) to md5."""
    path = root / "dvc.lock"
    lock: dict[str, Any] = YAML(typ="safe").load(path.read_text())
    entry = lock["stages"]["evaluate@brick"]
    known = {d["path"]: d for d in entry["deps"]}
    for name, md5 in deps.items():
        place = name.replace("__", "/")
        known[place] = {"path": place, "hash": "md5", "md5": md5}
    entry["deps"] = list(known.values())
    YAML().dump(copy.deepcopy(lock), path)


def test_images_that_changed_during_the_training_are_not_published(root: Path) -> None:
    assert lineage.read_state(root, "brick").one_data
    rewrite(root, data__brick="0" * 32 + ".dir")
    with pytest.raises(UserError, match="data/brick changed while 'brick' was trained; do `kintsugi run brick` again"):
        lineage.read_state(root, "brick")


def identity(root: Path) -> str:
    return lineage.test_identity(root, lineage.read_state(root, "brick"), "test")


@pytest.mark.parametrize("code", ["components__evaluate", "components__inspector.py", "components__restore.py"])
def test_scores_by_other_code_are_not_compared_as_they_stand(root: Path, code: str) -> None:
    rewrite(root, components__evaluate="a" * 32, **({} if code == "components__evaluate" else {code: "a" * 32}))
    before = identity(root)
    assert identity(root) == before
    rewrite(root, **{code: "b" * 32})
    assert identity(root) != before


def test_the_model_itself_is_no_part_of_what_it_is_scored_on(root: Path) -> None:
    before = identity(root)
    rewrite(root, artifacts__brick__package="b" * 32)
    assert identity(root) == before
