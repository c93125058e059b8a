"""Fixity: hashing files and folders as DVC does, and finding the objects of an older version.

DVC names a folder by the md5 of a JSON list of its files, each with its md5 and path, with `.dir` appended.
Computing it here, without DVC, is what makes the audit an independent check, and a fast one.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Listing = Mapping[str, str]  # posix path relative to the folder -> md5 (hex)


def file_hash(path: Path, algorithm: str = "md5") -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def text_sha256(text: str | bytes) -> str:
    """Hex sha256 of a text (UTF-8) or of bytes."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def listing(folder: Path, algorithm: str = "md5") -> dict[str, str]:
    """Path to digest of every file below `folder`; empty when the folder is not there."""
    return {
        path.relative_to(folder).as_posix(): file_hash(path, algorithm)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def listing_md5(files: Listing) -> str:
    """DVC's md5 of a folder: 32 hex digits and `.dir` (36 characters)."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def subtree(files: Listing, prefix: str) -> dict[str, str]:
    """The part of a listing below `prefix/`, with paths relative to it."""
    return {path[len(prefix) + 1 :]: md5 for path, md5 in files.items() if path.startswith(prefix + "/")}


def differences(expected: Listing, found: Listing) -> list[str]:
    """One phrase per file that is changed, missing or extra, by path."""
    phrases = [f"{p} changed" for p in expected if p in found and found[p] != expected[p]]
    phrases += [f"{p} missing" for p in expected if p not in found]
    phrases += [f"{p} extra" for p in found if p not in expected]
    return sorted(phrases)


@dataclass(frozen=True)
class Objects:
    """The folders that hold DVC's objects by md5: the cache, then the default remote when it is a folder."""

    folders: tuple[tuple[str, Path], ...]  # (what to call it, where it is)
    remote: str = ""  # name of DVC's default remote, folder or not
    reachable: bool = True  # False: the remote is not a folder, so only DVC can look there

    @classmethod
    def of(cls, root: Path) -> Objects:
        """Read where the workspace keeps its objects from .dvc/config and .dvc/config.local."""
        base = root / ".dvc"
        config = configparser.ConfigParser(interpolation=None)
        config.read([base / "config", base / "config.local"])
        folders = [("cache", _resolve(base, config.get("cache", "dir", fallback="cache")))]
        remote = config.get("core", "remote", fallback="")
        url = config.get(f"'remote \"{remote}\"'", "url", fallback="")
        local = "://" not in url
        if url and local:
            folders.append(("remote", _resolve(base, url)))
        return cls(tuple(folders), remote, local)

    def find(self, md5: str) -> tuple[str, Path] | None:
        """Where the object of this md5 lies, or None."""
        for name, folder in self.folders:
            path = folder / "files" / "md5" / md5[:2] / md5[2:]
            if path.is_file():
                return name, path
        return None

    def listing(self, md5: str) -> dict[str, str] | None:
        """The files of the folder version `md5` (a `.dir`); None when it is nowhere or not what it says."""
        found = self.find(md5)
        if found is None:
            return None
        files = {e["relpath"]: e["md5"] for e in json.loads(found[1].read_bytes())}
        return files if listing_md5(files) == md5 else None

    def verify(self, files: Listing) -> tuple[set[str], list[str], list[str]]:
        """Re-hash the objects of a listing: (where they were found, paths missing, paths that differ)."""
        places: set[str] = set()
        missing: list[str] = []
        differing: list[str] = []
        for path, md5 in files.items():
            found = self.find(md5)
            if found is None:
                missing.append(path)
                continue
            places.add(found[0])
            if file_hash(found[1]) != md5:
                differing.append(path)
        return places, missing, differing


def _resolve(base: Path, where: str) -> Path:
    return Path(os.path.normpath(base / Path(where).expanduser()))
