"""dvc.lock after a kill: DVC writes it in place, so a process that dies while it writes leaves a part of it.

DVC then refuses every command, or takes what is left for the whole. What can be read is kept, the text from before
and the last commit fill in what they know, and the rest comes back from DVC's run-cache when its stages are asked for,
without running them.
"""

from __future__ import annotations

import logging
import os
import re
import time
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import UserError
from flows.adapters import git

NAME = "dvc.lock"
ENTRY = re.compile(r"^  \S.*:$", flags=re.MULTILINE)  # where the entry of a stage begins
SETTLED = 0.5  # seconds in which no other DVC process can still be writing what looks torn

log = logging.getLogger(__name__)


def text(root: Path) -> str:
    """dvc.lock as it is, whole or not; empty when there is none."""
    path = root / NAME
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def mend(root: Path, before: str = "") -> bool:
    """Make a torn dvc.lock whole; False when there is none or nothing is wrong with it.

    `before` is a text of it from before the process began that may have torn it.
    """
    path = root / NAME
    torn = text(root)
    now, then = _stages(torn), _stages(before) or {}
    if not path.is_file() or (now is not None and then.keys() <= now.keys()):
        return False
    time.sleep(SETTLED)
    if text(root) != torn:  # it was being written; by now it is whole, or this is asked again
        return True
    stages = _committed(root) | then | (now or _beginning(torn))
    content = StringIO()
    YAML().dump({"schema": "2.0", "stages": stages}, content)
    scratch = path.with_name(f".{NAME}.part")
    scratch.write_text(content.getvalue(), encoding="utf-8")
    os.replace(scratch, path)
    log.warning("dvc.lock was written by halves by a process that died; %d stages of it are kept", len(stages))
    return True


def _stages(written: str) -> dict[str, Any] | None:
    """The entries of a dvc.lock, None when it is not a whole one."""
    if not written.endswith("\n"):
        return None
    try:
        content = YAML(typ="safe").load(written)
    except YAMLError:
        return None
    if not isinstance(content, dict) or "schema" not in content or not isinstance(content.get("stages"), dict):
        return None
    stages: dict[str, Any] = content["stages"]
    return stages if all(_whole(entry) for entry in stages.values()) else None


def _whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or "cmd" not in entry:
        return False
    files = [entry.get(kind) for kind in ("deps", "outs")]
    return all(isinstance(items, list) and all("md5" in item for item in items) for items in files)


def _beginning(torn: str) -> dict[str, Any]:
    """The entries before the one in which the text ends."""
    starts = [match.start() for match in ENTRY.finditer(torn)]
    return (_stages(torn[: starts[-1]]) or {}) if starts else {}


def _committed(root: Path) -> dict[str, Any]:
    try:
        return _stages(git.git(root, "show", f"HEAD:./{NAME}") + "\n") or {}
    except UserError:  # no commit yet, or dvc.lock was never in one
        return {}
