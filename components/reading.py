"""Reading what people and other machines wrote: YAML that may nest, repeat, lie about its types or be no YAML."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import UserError

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # of a settings file: never a path
LARGEST = 1e12  # of any number
DEEPEST = 100  # levels


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse one YAML mapping; UserError names the file and the line that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; restore it from git") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if too_deep(text):
        raise UserError(f"{path} nests too deeply; restore it from git")
    try:
        loaded = YAML(typ="safe").load(text)
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:  # a date that is none, an odd tag
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} must hold a mapping of keys to values")
    return loaded


def too_deep(text: str) -> bool:
    """Whether YAML nests more than DEEPEST levels: the parser recurses in C, and would end the whole process."""
    level = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        level = level + 1 if bracket in "[{" else max(level - 1, 0)
        if level > DEEPEST:
            return True
    return re.search(rf"(?m)^(?: {{{5 * DEEPEST}}}|\s*(?:[-?]\s+){{{DEEPEST}}})", text) is not None


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A part of a settings file that must hold keys and values, or nothing; UserError otherwise."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where} is {short(value)}; it must hold keys and values")
    return dict(value)


def short(value: Any) -> str:
    """A value for a message: a few lines of YAML can name themselves into a text that fills the memory."""
    return reprlib.repr(value)
