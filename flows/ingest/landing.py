"""The landing place: a folder of this machine, or any address that fsspec can open, fetched to a spool.

A folder is emptied: every file ends up in the training set, in held/ or in quarantine/. A bucket is not ours to
empty: objects stay in it, and what was fetched is remembered by name, size and entity tag, so that it is not
fetched again and an object that was written anew is. A rule of the bucket's own may expire them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from components.dataset.manifest import CLUTTER
from components.errors import UserError
from flows import fixity
from flows.ingest import files, journal

EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> the extra of this package that can open it
AHEAD = 3600.0  # seconds that a file server's clock may be ahead of ours
# Folders of a workspace that hold its code, its images and what was made of them.
OWN = (
    ".dvc", ".git", ".kintsugi", ".venv", "artifacts", "audit", "benchmarks", "checkpoints", "components", "data",
    "docs", "flows", "held", "infra", "mlartifacts", "mlflow", "quarantine", "remote", "settings", "tests",
)  # fmt: skip
LONGEST = 200  # bytes of one part of a name that a local file can have, with room for an ending


@dataclass(frozen=True)
class Waiting:
    """One file in the landing place."""

    name: str  # relative to it, posix; of an object the file's in the spool
    identity: str  # changes when its contents do: name, size, and time or entity tag
    age: float  # seconds since it was last changed
    key: str = ""  # of an object, relative to the place; any text at all


def is_remote(place: str) -> bool:
    """Whether the place is an address rather than a folder of this machine."""
    return "://" in place and not place.startswith("file://")


def folder_of(place: str) -> Path:
    """The folder that a local place names."""
    return Path(place.removeprefix("file://")).expanduser().resolve()


def check_apart(root: Path, place: str) -> None:
    """Raise UserError unless the place may be emptied: it is none of the workspace's own folders, nor around one.

    Links are followed on both sides: `data` may be one, or a category in it, and DVC's cache may be anywhere.
    """
    if is_remote(place):
        return
    base = folder_of(place)
    own = [*(root / name for name in OWN), *(root / "data").glob("*")]
    own += [folder for _, folder in fixity.Objects.of(root).folders]
    real = [folder.resolve() for folder in own]
    around = any(folder.is_relative_to(base) for folder in (root.resolve(), *real))
    if around or any(base.is_relative_to(folder) for folder in real):
        raise UserError(
            f"{base} holds files of the workspace itself, and an ingest moves away all that it finds; "
            "name a folder where nothing but new images lands"
        )


def waiting(root: Path, category: str, place: str) -> list[Waiting]:
    """The files that wait in the landing place, sorted by name; in a bucket, those not yet fetched.

    Hidden files, file managers' clutter and links are not looked at. An absent folder is an empty one. Raises
    UserError for a folder that may not be listed and a bucket that does not exist or refuses the credentials, and
    PassingError for an address that does not answer.
    """
    if is_remote(place):
        fetched = _fetched(root, category)
        return [item for item in _remote(place) if item.identity not in fetched]
    base, now, found = folder_of(place), time.time(), []
    _check_listable(base)
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
            # Written long after now: the clock has been moved back, and the file is not being written any more.
            age = now - stat.st_mtime
            found.append(Waiting(name.as_posix(), identity, age if age > -AHEAD else math.inf))
    return found


def _check_listable(base: Path) -> None:
    """Raise UserError for a folder whose files may not be seen: to `rglob` it is an empty one."""
    try:
        os.scandir(base).close()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UserError(f"{base} is no folder; name the one where new images land") from None
    except PermissionError as error:
        raise UserError(
            f"{base} may not be listed ({error.strerror}); give this user permission to read the landing folder"
        ) from error


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
            system.get_file(f"{base}/{item.key}", str(part))
        except FileNotFoundError:
            raise files.PassingError(f"{place}/{item.key} was taken away before it was fetched; try again") from None
        except Exception as error:  # each file system has errors of its own
            raise _unanswered(place, error) from error
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
        extra = EXTRAS.get(place.partition("://")[0])
        needed = f"`pip install 'kintsugi[{extra}]'`" if extra else "what its protocol needs"
        raise UserError(f"{place} cannot be opened ({error}); install {needed}") from None
    return system, str(base).rstrip("/")


def _remote(place: str) -> list[Waiting]:
    system, base = _open(place)
    try:
        system.invalidate_cache()
        found: dict[str, dict[str, Any]] = system.find(base, detail=True)
    except FileNotFoundError as error:  # an absent folder of a bucket is found empty: the bucket itself is absent
        raise UserError(f"{place} is nowhere ({error}); make the bucket, or correct ingest.landing") from None
    except Exception as error:
        raise _unanswered(place, error) from error
    if base in found:
        raise UserError(f"{place} is no folder; name the one where new images land")
    infos = {path.removeprefix(f"{base}/"): info for path, info in found.items() if not path.endswith("/")}
    items = []
    for key, name in _local_names(sorted(infos)).items():
        info = infos[key]
        changed = info.get("ETag") or info.get("LastModified") or info.get("mtime") or info.get("created") or ""
        items.append(Waiting(name, f"{place}/{key}|{info.get('size')}|{changed}", float("inf"), key))
    return items


def _unanswered(place: str, error: Exception) -> UserError:
    """What to say of a file system's error; every file system has errors of its own."""
    if isinstance(error, PermissionError) or "credential" in str(error).lower():
        where = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if place.startswith("s3") else "the credentials"
        return UserError(f"{place} may not be read ({error}); check {where}")
    return files.PassingError(f"{place} does not answer ({error}); check the address, or try again later")


def _local_names(keys: list[str]) -> dict[str, str]:
    """Object key -> a path that the spool can hold: a bucket may have `a` beside `a/b`, `//`, `..`, any length."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    parts = {key: [part for part in key.split("/") if part not in ("", ".", "..")] for key in keys}
    folders = {"/".join(found[:depth]) for found in parts.values() for depth in range(1, len(found))}
    for key, found in parts.items():
        name = "/".join(found)
        if not found or not _visible(PurePosixPath(name)):
            continue
        if name in folders or name in taken or max(len(part.encode()) for part in found) > LONGEST:
            name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{found[-1][-LONGEST // 4 :]}"
        names[key] = name
        taken.add(name)
    return names


def _visible(name: PurePath) -> bool:
    return not any(part.startswith(".") for part in name.parts) and name.name.lower() not in CLUTTER
