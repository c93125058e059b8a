"""dvc.yaml names the code that decides each stage's result: what a stage imports, but for what only carries it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from components.reading import read_yaml
from tests.conftest import REPO

MODULES = {
    "augment": "components/augment.py", "train_vqvae": "components/vqvae/train.py",
    "extract_codes": "components/codes.py", "train_prior": "components/prior/train.py",
    "calibrate": "components/calibrate.py", "package": "components/package.py",
    "evaluate": "components/evaluate/__init__.py",
}  # fmt: skip
# Reads settings, names files, says what is wrong, or trains what other stages only load.
CARRIES = {f"components/{name}.py" for name in ("errors", "reading", "settings", "stage", "package")}
TRAINS = {f"components/{name}.py" for name in ("parallel", "training")}
READS_IMAGES = ("augment", "evaluate")
SCORES = ("calibrate", "evaluate")


def imported(path: Path) -> set[Path]:
    """The files of components/ that `path` imports by itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    places = [REPO / name.replace(".", "/") for name in names if name.startswith("components.")]
    found = [place.with_suffix(".py") for place in places] + [place / "__init__.py" for place in places]
    return {file for file in found if file.is_file()}


def reached(path: Path) -> set[str]:
    """What running `path` can run, relative to the repository."""
    seen, todo = set[Path](), [path]
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imported(file)
    return {file.relative_to(REPO).as_posix() for file in seen}


@pytest.mark.parametrize("stage", MODULES)
def test_a_stage_depends_on_the_code_that_decides_its_result(stage: str) -> None:
    deps = read_yaml(REPO / "dvc.yaml")["stages"][stage]["deps"]
    needed = reached(REPO / MODULES[stage]) - CARRIES
    if not stage.startswith("train"):
        needed -= TRAINS
    if stage not in READS_IMAGES:
        needed -= {"components/dataset/images.py"}
    if stage not in SCORES:
        needed -= {"components/scores.py"}
    missing = [file for file in sorted(needed) if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)]
    assert missing == []
