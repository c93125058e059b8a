"""Edit params.yaml as a careful person would: comments stay, and a kill leaves the old file or the new one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def edit(root: Path, change: Callable[[Any], None]) -> None:
    """Let `change` alter the parsed mapping, then replace the file in one step."""
    path = root / "params.yaml"
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    params = yaml.load(path.read_text(encoding="utf-8"))
    change(params)
    temporary = path.with_name(".params.yaml.new")
    with temporary.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    os.replace(temporary, path)
