"""The landing place: a folder of this machine, or any address that fsspec can open, fetched to a spool."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from components.dataset.manifest import CLUTTER
from components.errors import UserError
from flows.ingest import files, journal


@dataclass(frozen=True)
class Waiting:
    """One file in the landing place."""

    name: str  # relative to it, posix
    identity: str  # changes when its contents do: name, size, and time or entity tag
    age: float  # seconds since it was last changed


def is_remote(place: str) -> bool:
    """Whether the place is an address rather than a folder of this machine."""
    return "://" in place and not place.startswith("file://")


def folder_of(place: str) -> Path:
    """The folder that a local place names."""
    return Path(place.removeprefix("file://")).expanduser().resolve()


def waiting(root: Path, category: str, place: str) -> list[Waiting]:
    """The files that wait in the landing place, sorted by name; in a bucket, those not yet fetched.

    Hidden files, file managers' clutter and links are not looked at. An absent folder is an empty one;
    an address that does not answer raises UserError.
    """
    if is_remote(place):
        fetched = _fetched(root, category)
        return [item for item in _remote(place) if item.identity not in fetched]
    base, now, found = folder_of(place), time.time(), []
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base)
        if not _visible(name) or path.is_symlink():
            continue
        try:
            stat = path.stat()
        except FileNotFoundError:  # taken away while we looked
            continue
        if path.is_file():
            identity = f"{name.as_posix()}|{stat.st_size}|{stat.st_mtime_ns}"
            found.append(Waiting(name.as_posix(), identity, now - stat.st_mtime))
    return found


def digest(items: list[Waiting]) -> str:
    """One hash for what waits: equal as long as no file comes, goes or changes."""
    return hashlib.sha256("\n".join(sorted(item.identity for item in items)).encode(errors="replace")).hexdigest()


def fetch(root: Path, category: str, place: str, items: list[Waiting]) -> Path:
    """Return the folder of this machine that holds `items`: the place itself, or the filled spool."""
    if not is_remote(place):
        return folder_of(place)
    spool = journal.home(root, category) / "spool"
    system, base = _open(place)
    for item in items:
        target = spool / item.name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        try:
            system.get_file(f"{base.rstrip('/')}/{item.name}", str(part))
        except Exception as error:  # each file system has errors of its own
            raise files.PassingError(f"{place}/{item.name} cannot be fetched ({error}); try again") from error
        os.replace(part, target)
    return spool


def remember(root: Path, category: str, identities: list[str]) -> None:
    """Note objects of a bucket as done with, so that they are not fetched again."""
    if identities:
        known = sorted(_fetched(root, category) | set(identities))
        files.write_json(journal.home(root, category) / "fetched.json", {"objects": known})


def _fetched(root: Path, category: str) -> set[str]:
    try:
        kept = json.loads((journal.home(root, category) / "fetched.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    return set(kept["objects"])


def _open(place: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, base = url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise UserError(f"{place} cannot be opened ({error}); install what its protocol needs") from None
    return system, str(base)


def _remote(place: str) -> list[Waiting]:
    system, base = _open(place)
    try:
        system.invalidate_cache()
        found: dict[str, dict[str, Any]] = system.find(base, detail=True)
    except FileNotFoundError:
        return []
    except Exception as error:
        raise files.PassingError(f"{place} does not answer ({error}); check the address and credentials") from error
    items = []
    for path, info in sorted(found.items()):
        name = PurePosixPath(path).relative_to(PurePosixPath(base))
        if _visible(name) and ".." not in name.parts:
            changed = info.get("ETag") or info.get("LastModified") or info.get("mtime") or info.get("created") or ""
            identity = f"{place}/{name}|{info.get('size')}|{changed}"
            items.append(Waiting(name.as_posix(), identity, float("inf")))
    return items


def _visible(name: PurePath) -> bool:
    return not any(part.startswith(".") for part in name.parts) and name.name.lower() not in CLUTTER
