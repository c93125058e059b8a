"""dvc.lock in parts: each machine brings its category's, the collector makes one file of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components.errors import UserError
from flows.fleet.store import Store


def part_name(category: str) -> str:
    """Where a category's part lies in the store."""
    return f"locks/{category}.yaml"


def read(root: Path) -> dict[str, Any]:
    """The stages that dvc.lock records."""
    path = root / "dvc.lock"
    return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"] or {}) if path.is_file() else {}


def write(root: Path, stages: Mapping[str, Any]) -> None:
    """Write dvc.lock as DVC does, in one step."""
    yaml = YAML()
    yaml.default_flow_style = False
    scratch = root / ".kintsugi" / "dvc.lock.new"
    scratch.parent.mkdir(exist_ok=True)
    with scratch.open("w", encoding="utf-8") as file:
        yaml.dump({"schema": "2.0", "stages": dict(stages)}, file)
    os.replace(scratch, root / "dvc.lock")


def of_category(stages: Mapping[str, Any], category: str) -> dict[str, Any]:
    """The entries of one category."""
    return {name: entry for name, entry in stages.items() if name.endswith(f"@{category}")}


def send(root: Path, store: Store, category: str) -> None:
    """Put this machine's part of the lock into the store."""
    scratch = root / ".kintsugi" / f"{category}.part"
    scratch.parent.mkdir(exist_ok=True)
    with scratch.open("w", encoding="utf-8") as file:
        YAML().dump(of_category(read(root), category), file)
    store.put(part_name(category), scratch.read_bytes())


def receive(root: Path, store: Store, category: str) -> list[str]:
    """Take over what another machine has done of a category; the names of those stages."""
    content = store.get(part_name(category))
    if content is None:
        return []
    part = dict(YAML(typ="safe").load(content.decode()) or {})
    if foreign := [name for name in part if not name.endswith(f"@{category}")]:
        raise UserError(f"the store's lock of '{category}' holds {foreign[0]}; remove {part_name(category)} from it")
    if part:
        write(root, read(root) | part)
    return list(part)
