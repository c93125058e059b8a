"""Unpacking an archive from somebody else: nothing outside the folder, no links, no bombs.

Every member is judged before the first byte is written, so a refused archive leaves nothing behind.
"""

from __future__ import annotations

import errno
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from components.errors import UserError

MAX_MEMBERS = 200_000
MAX_BYTES = 50_000_000_000  # unpacked
CHUNK = 1 << 20
# A name that is too long or of no use on this file system, a file where a folder should be, a damaged offset.
REFUSED = (errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ)
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError, ValueError, IndexError, KeyError, struct.error, OverflowError, AssertionError,
)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One entry of an archive: where it goes below the target, and what it says that it is."""

    path: PurePosixPath
    folder: bool
    size: int
    entry: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: Path) -> bool:
    """Whether the file is a zip, or a tar that may be compressed with gzip, bzip2 or xz."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except DAMAGED:  # a compressed file that ends too early
        return False


def unpack(archive: Path, target: Path, max_members: int = MAX_MEMBERS, max_bytes: int = MAX_BYTES) -> None:
    """Unpack `archive` into the folder `target`.

    Raises UserError, naming the member, for one that would land outside of `target` (absolute, a drive or
    `..`), a link, a device, an encrypted one or a name used twice; and for more than `max_members` members,
    more than `max_bytes` unpacked bytes, or an archive that cannot be read to its end.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _unpack(_checked(_zip_members(opened), max_members, max_bytes, archive), opened, target, max_bytes)
        else:
            with tarfile.open(archive, "r:*") as tar:
                _unpack(_checked(_tar_members(tar), max_members, max_bytes, archive), tar, target, max_bytes)
    except DAMAGED as error:
        raise UserError(f"archive {archive} is damaged or of an unknown kind ({error}); fetch it again") from None
    except OSError as error:
        if error.errno is None:  # bzip2's word for damage
            raise UserError(f"archive {archive} is damaged ({error}); fetch it again") from None
        if error.errno not in REFUSED:
            raise
        told = f"archive {archive} has a member that cannot be written here ({error.strerror})"
        raise UserError(f"{told}; unpack it yourself and give it another name") from None


def safe_path(name: str) -> PurePosixPath:
    """A member's name as a path below the target; UserError when it would leave it.

    Backslashes count as separators, because some Windows programs write them. "." is the target itself.
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in parts or "\0" in plain:
        raise UserError(f"archive member {name!r} would be written outside of its folder; do not trust this archive")
    return PurePosixPath(*parts)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        kind = stat.S_IFMT(mode)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"archive member {info.filename!r} is a link or a device; pack files only")
        if info.flag_bits & 1:
            raise UserError(f"archive member {info.filename!r} is encrypted; unpack the archive yourself")
        folder = info.is_dir() or info.filename.endswith("\\")
        yield Member(safe_path(info.filename), folder, info.file_size, info)


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        if not (info.isreg() or info.isdir()):
            raise UserError(f"archive member {info.name!r} is a link or a device; pack files only")
        yield Member(safe_path(info.name), info.isdir(), info.size, info)


def _checked(members: Iterator[Member], max_members: int, max_bytes: int, archive: Path) -> list[Member]:
    kept: list[Member] = []
    files: set[PurePosixPath] = set()
    total = 0
    for number, member in enumerate(members, 1):
        total += member.size
        # Judged on the way, so that a compressed bomb is not unrolled to its end only to be counted.
        if number > max_members:
            raise UserError(f"archive {archive} has more than {max_members} members; unpack it yourself")
        if total > max_bytes:
            raise UserError(f"archive {archive} unpacks to more than {max_bytes / 1e9:g} GB; unpack it yourself")
        if not member.folder:
            if member.path in files:
                raise UserError(f"archive {archive} holds {str(member.path)!r} twice; pack it again")
            files.add(member.path)
        kept.append(member)
    for member in kept:
        above = (member.path, *member.path.parents) if member.folder else member.path.parents
        if any(path in files for path in above):
            raise UserError(f"archive {archive} holds {str(member.path)!r} below a file; pack it again")
    return kept


def _unpack(members: list[Member], archive: zipfile.ZipFile | tarfile.TarFile, target: Path, max_bytes: int) -> None:
    left = max_bytes
    target.mkdir(parents=True, exist_ok=True)
    for member in members:
        path = target / member.path
        if member.folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open(archive, member) as source, path.open("wb") as sink:
            while chunk := source.read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:  # more than the archive's own list said
                    raise UserError(f"archive member {str(member.path)!r} is larger than it says; do not trust it")
                sink.write(chunk)


def _open(archive: zipfile.ZipFile | tarfile.TarFile, member: Member) -> IO[bytes]:
    if isinstance(archive, zipfile.ZipFile):
        assert isinstance(member.entry, zipfile.ZipInfo)
        return archive.open(member.entry)
    assert isinstance(member.entry, tarfile.TarInfo)
    source = archive.extractfile(member.entry)
    assert source is not None, "a regular member has content"
    return source
