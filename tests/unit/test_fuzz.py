"""Hostile input, a little of it; benchmarks/fuzz.py does more. And nothing in the code can load a pickle."""

from __future__ import annotations

import ast
import contextlib
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import fuzz
from components.dataset.images import FORMATS, decode
from components.dataset.staging import check_name
from components.errors import UserError
from components.reading import read_yaml
from tests.conftest import REPO
from tests.fuzz import archives, images, settings

PICKLES = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}
LOADERS: dict[str, Callable[[ast.Call], bool]] = {
    "torch.load": lambda call: keyword(call, "weights_only") is True,
    "np.load": lambda call: keyword(call, "allow_pickle") in (None, False),
    "pd.read_pickle": lambda call: False,
    "yaml.load": lambda call: True,  # checked below: every YAML() is safe or keeps comments, and neither makes objects
    "eval": lambda call: False,
    "exec": lambda call: False,
    "os.system": lambda call: False,
    "subprocess.run": lambda call: keyword(call, "shell") in (None, False),
    "subprocess.Popen": lambda call: keyword(call, "shell") in (None, False),
}


def test_a_few_hundred_cases_come_to_no_harm(tmp_path: Path) -> None:
    ends, failures = fuzz.run(240, seed=random.randrange(10**9))
    assert not failures, failures[0]
    assert sum(ends.values()) == 240
    assert all(ends[f"{kind} refused"] for kind in fuzz.KINDS)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_the_harness_sees_what_it_is_there_to_see(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def escape(draw: random.Random, folder: Path) -> None:
        (folder.parent / "escaped").write_text("out")
        raise UserError("refused")

    def crash(draw: random.Random, folder: Path) -> None:
        raise ValueError("crash")

    for case, told in ((escape, ""), (crash, "ValueError")):
        monkeypatch.setitem(fuzz.KINDS, kind, case)
        found = fuzz.one(kind, 1, tmp_path)
        if case is crash:
            assert isinstance(found, fuzz.Failure) and told in found.told
        else:
            assert isinstance(found, fuzz.Failure) and "escaped" in found.told


def test_every_decoder_that_is_reached_is_fuzzed_and_named() -> None:
    seen = set()
    for data in images.seeds():
        with contextlib.suppress(UserError):
            decode(data, Path("seed"), images.MEGAPIXELS)
            seen.add(Image.open(io.BytesIO(data)).format)
    assert seen == set(FORMATS)
    (row,) = [
        line for line in (REPO / "docs/threat-model.md").read_text().splitlines() if "only the decoders of" in line
    ]
    called = {"WEBP": "WebP", "PPM": "PNM", "JPEG2000": "JPEG 2000"}
    assert all(called.get(name, name) in row for name in FORMATS), row


def test_yaml_that_names_itself_into_a_bomb_or_nests_for_ever_is_refused_in_short(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for text in ("[" * 100_000, "a: 2001-99-99", "!!python/object/apply:os.system ['touch x']"):
        path.write_text(text)
        with pytest.raises(UserError) as told:
            read_yaml(path)
        assert len(str(told.value)) < 2000
    assert len(settings.BOMB) < 1000  # a few lines; 9 to the 9th power entries


@pytest.mark.parametrize("name", [name for name in archives.NAMES if name not in ("con", "b")])
def test_a_name_that_is_no_plain_word_names_no_category(name: str) -> None:
    with pytest.raises(UserError):
        check_name(name)


def sources() -> Iterator[Path]:
    for folder in ("components", "flows", "mlflow"):
        yield from (REPO / folder).rglob("*.py")


def keyword(call: ast.Call, name: str) -> object:
    """A keyword's constant value; None without it, something else where it is computed."""
    found = next((each.value for each in call.keywords if each.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else found


def named(call: ast.Call) -> str:
    return ast.unparse(call.func)


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(REPO).as_posix())
def test_no_pickle_is_loaded_and_no_text_is_run(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.partition(".")[0] for name in modules} & PICKLES, ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        name = named(node)
        assert LOADERS.get(name.replace("numpy.", "np.").replace("pandas.", "pd."), lambda call: True)(node), name
        assert not name.endswith(("extractall", "unpack_archive", "read_pickle")), name
        if name.rpartition(".")[2] == "YAML":
            assert keyword(node, "typ") in (None, "rt", "safe"), ast.unparse(node)


def test_the_walk_finds_what_it_forbids() -> None:
    bad = ["torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "eval(t)",
           "subprocess.run(t, shell=True)"]  # fmt: skip
    for text in bad:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call) and not LOADERS[named(call)](call), text
