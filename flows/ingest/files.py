"""Files that are whole or not there: atomic writing, and moves that a crash can only stop before or after."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.errors import UserError


class PassingError(UserError):
    """Refused for a reason that passes by itself: the same command can succeed later."""


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, "" when there is no such file or it may not be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, PermissionError):
        return ""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` by `content` in one step that survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    sync_folder(path.parent)


def check_movable(paths: Iterable[Path]) -> None:
    """Raise UserError for the first folder out of which none of `paths` may be moved."""
    for folder in dict.fromkeys(path.parent for path in paths):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"images cannot be moved out of {folder}; give this user permission to write there")


def sync_folder(folder: Path) -> None:
    """Make names that were just given in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path, digest: str, scratch: Path) -> bool:
    """Let the file with sha256 `digest` be at `target` and not at `source`; may be repeated at will.

    Within one file system this is a rename; across two, the bytes are copied to `scratch` (a folder on
    the target's side), brought to the disk and renamed before the source goes. Returns False, with nothing
    changed, when the bytes are at neither place: someone took or rewrote the file in between.
    """
    if not digest:
        raise ValueError(f"{source} cannot be moved without the hash of its bytes")
    if sha256(target) == digest:
        if sha256(source) == digest and not source.samefile(target):
            source.unlink()
        return True
    if sha256(source) != digest or target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target, scratch)
        source.unlink()
    sync_folder(target.parent)
    return True


def _copy(source: Path, target: Path, scratch: Path) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    part = scratch / f"{target.name}.part"
    with source.open("rb") as read, part.open("wb") as written:
        shutil.copyfileobj(read, written)
        written.flush()
        os.fsync(written.fileno())
    os.replace(part, target)
