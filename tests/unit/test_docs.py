"""The documentation follows the code: generated pages, quoted messages, links, dependencies."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from docs import generate
from tests.conftest import REPO

PAGES = sorted([REPO / "README.md", REPO / "CHANGELOG.md", *(REPO / "docs").rglob("*.md")])
ELSEWHERE = {"libGL.so.1: cannot open shared object file"}  # said by the system's loader
GAP = "…"


def test_the_settings_page_is_what_the_dataclasses_say() -> None:
    page = (REPO / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == generate.settings_page(), "run `make docs`"


def test_the_drawn_stage_graph_is_that_of_dvc_yaml() -> None:
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == generate.architecture_page(page), "run `make docs`"


def test_field_comments_are_those_of_the_line() -> None:
    source = "class A:\n    x: int  # how many\n    y: str\n    # of no field\n    z: int  # pixels # too\n"
    assert generate.field_comments(source) == {"A": {"x": "how many", "y": "", "z": "pixels # too"}}


def test_the_page_needs_its_markers() -> None:
    with pytest.raises(ValueError, match="lacks"):
        generate.architecture_page("# Architecture\n")


def texts_of(source: str) -> list[str]:
    """Every string of a Python source, a gap for what is filled in when it runs."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    filled = [
        "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    ]
    return plain + filled


def squeezed(text: str) -> str:
    """One gap for neighbouring gaps, so that a message may quote a filled-in part as it likes."""
    return re.sub(f"{GAP}+", GAP, text)


@pytest.fixture(scope="module")
def said() -> str:
    sources = [p for folder in ("components", "flows") for p in (REPO / folder).rglob("*.py")]
    texts = [text for path in sources for text in texts_of(path.read_text(encoding="utf-8"))]
    makefile = re.sub(r"\$\(\w+\)", GAP, (REPO / "Makefile").read_text(encoding="utf-8"))
    return "\n".join(squeezed(text) for text in [*texts, makefile])


def messages() -> list[str]:
    page = (REPO / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")]


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_is_one_of_the_codes(message: str, said: str) -> None:
    assert message in ELSEWHERE or squeezed(message) in said


def test_texts_keep_what_stands_around_a_gap() -> None:
    source = "raise E(f'{path} is bad{more}{rest}; ' 'copy it')\nprint('plain')\n"
    assert {squeezed(text) for text in texts_of(source)} >= {"… is bad…; copy it", "plain"}


def links() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("#"):
                found.append((page.relative_to(REPO).as_posix(), target.partition("#")[0]))
    return found


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    assert ((REPO / page).parent / target).exists()


def test_the_readme_leads_to_every_page() -> None:
    reached: set[Path] = set()
    todo = [REPO / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        targets = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
        todo += [p for t in targets if "://" not in t and (p := (page.parent / t).resolve()) not in reached]
    assert [page.name for page in (REPO / "docs").glob("*.md") if page not in reached] == []


PICTURES = sorted((REPO / "docs" / "pictures").iterdir())


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_shown_and_said_in_words(picture: Path) -> None:
    shown = [
        " ".join(words.split())
        for page in PAGES
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if (page.parent / target).resolve() == picture
    ]
    assert shown and all(len(words) > 40 for words in shown)
    assert picture.stat().st_size < 250_000


def requirements() -> dict[str, Requirement]:
    """Every direct dependency by canonical name, extras included; not the project's own extras."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    named = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    return {name: requirement for name, requirement in named.items() if name != "kintsugi"}


def test_constraints_pin_every_dependency_within_its_range() -> None:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    assert all(version.local is None for version in versions.values())
    outside = [
        str(r) for name, r in requirements().items() if name not in versions or versions[name] not in r.specifier
    ]
    assert outside == []


def test_what_is_imported_is_a_declared_dependency() -> None:
    paths = [p for folder in ("components", "flows", "mlflow") for p in (REPO / folder).rglob("*.py")]
    homes = packages_distributions()
    undeclared = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for name in {each.partition(".")[0] for each in names} & set(homes):
                owners = {canonicalize_name(owner) for owner in homes[name]}
                if not owners & {*requirements(), "kintsugi"}:
                    undeclared.add(f"{path.relative_to(REPO)}: {name}")
    assert undeclared == set()


def test_the_record_of_dependencies_names_each() -> None:
    page = (REPO / "docs" / "adr" / "0002-dependencies.md").read_text(encoding="utf-8")
    rows = {canonicalize_name(name) for name in re.findall(r"^\| ([\w.-]+) \|", page, flags=re.MULTILINE)}
    assert set(requirements()) == rows - {"package"}
