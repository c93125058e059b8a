"""params.yaml and settings files with wrong types, deep nesting, repetitions and bytes that are no text."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path

from components import settings
from flows import gates, plant
from tests.artifacts_fixture import REPO
from tests.fuzz.bend import bent

FILES = ("params.yaml", "settings/standard.yaml", "settings/plant.yaml", "mlflow/gates.yaml")
VALUES = [
    "null", "~", "true", "1", "-1", "1e999", ".nan", "'x'", "[]", "[1, a]", "{}", "{a: 1}", "[[[]]]", "!!binary aGk=",
    "!!python/object/apply:os.system ['touch escaped']", "!!set {a}", "!!omap [a: 1]", "2001-01-01", "0x10", "1_000",
    "&a [*a]", "*nobody", "? {a: 1}", "|\n  text", "9" * 400, "'../../etc/passwd'", "\"\\0\"", "<<: {a: 1}",
]  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@functools.cache
def seeds() -> dict[str, str]:
    """The project's own files."""
    return {name: (REPO / name).read_text(encoding="utf-8") for name in FILES}


def case(draw: random.Random, folder: Path) -> None:
    """Write one bent file among good ones and load everything."""
    for name, text in seeds().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    name = draw.choice(FILES)
    (folder / name).write_bytes(_bent(seeds()[name], draw))
    settings.load(folder, "brick")
    settings.load_dataset(folder)
    plant.load(folder, "brick")
    gates.load_limits(folder / "mlflow/gates.yaml", "brick", "test")


def _bent(text: str, draw: random.Random) -> bytes:
    match draw.randrange(6):
        case 0:
            return bent(text.encode(), draw)
        case 1:  # one value is another one
            places = list(re.finditer(r"(?m)^( *[\w-]+:) ?(.*)$", text))
            found = draw.choice(places)
            return (text[: found.end(1)] + " " + draw.choice(VALUES) + text[found.end() :]).encode()
        case 2:  # a whole section is
            places = list(re.finditer(r"(?m)^[\w-]+:\n(?: .*\n)+", text)) or list(re.finditer(r"(?m)^.*\n", text))
            found = draw.choice(places)
            head = found.group().partition(":")[0]
            return (text[: found.start()] + f"{head}: {draw.choice(VALUES)}\n" + text[found.end() :]).encode()
        case 3:
            depth = draw.choice([10, 500, 5000, 100_000])
            return (text + "deep: " + draw.choice(["[" * depth, "{a: " * depth, "- " * depth]) + "\n").encode()
        case 4:
            places = list(re.finditer(r"(?m)^[\w-]+:", text))
            head = draw.choice(places).group()
            return (BOMB + f"{head} *j\n").encode() if draw.random() < 0.5 else (text + BOMB).encode()
        case _:
            return draw.choice([b"", b"\xff\xfe", b"\x00", b"- a", b"x", b"%YAML 9.9\n---\na: 1", draw.randbytes(200)])
