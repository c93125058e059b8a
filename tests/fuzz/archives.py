"""Archives that climb out of their folder, link, lie about sizes, repeat names, explode or are damaged."""

from __future__ import annotations

import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

from components.dataset.archive import is_archive, unpack
from components.errors import UserError
from tests.fuzz.bend import bent

NAMES = [
    "a.png", "b/c.png", "../x", "../../escaped/x", "/kintsugi-escaped", "//x", "a/../../x", "..\\x", "C:\\x", "c:x",
    "", ".",
    "./.", "a\0b", "a\nb", "b", "b/c.png/d", "ü/é.png", "\udcff", "x" * 300, "/".join("d" * 100), "con", "a/b/../c",
    "~/x", "$HOME/x", "a//b", "\u202egnp.exe", "....//x", "%2e%2e/x",
]  # fmt: skip
MOST = 1 << 20  # unpacked bytes that are allowed


def case(draw: random.Random, folder: Path) -> None:
    """Unpack one archive; whatever it holds lands below `folder`/target."""
    archive = folder / "given"
    data = _zip(draw) if draw.random() < 0.5 else _tar(draw)
    archive.write_bytes(bent(data, draw) if draw.random() < 0.5 else data)
    if not is_archive(archive):
        raise UserError("not an archive")
    target = folder / "target"
    try:
        unpack(archive, target, max_members=50, max_bytes=MOST)
    finally:
        beside = {path.name for path in folder.iterdir()} - {"given", "target"}
        assert not beside and not Path("/kintsugi-escaped").exists(), beside
        found = list(target.rglob("*")) if target.exists() else []
        assert not any(path.is_symlink() for path in found)
        assert sum(path.stat().st_size for path in found if path.is_file()) <= MOST


def _content(draw: random.Random) -> bytes:
    return draw.choice(
        [b"", b"x", draw.randbytes(100), bytes(10_000), bytes(2 * MOST)] if draw.random() < 0.1 else [b"x"]
    )


def _zip(draw: random.Random) -> bytes:
    buffer = io.BytesIO()
    kind = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for _ in range(draw.choice([0, 1, 2, 5, 5, 60])):
            info = zipfile.ZipInfo("x")
            info.filename = draw.choice(NAMES).encode(errors="surrogateescape").decode(errors="replace")
            info.compress_type = kind
            if draw.random() < 0.2:
                mode = draw.choice([stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFREG])
                info.external_attr = (mode | 0o777) << 16
            archive.writestr(info, _content(draw))
    return buffer.getvalue()


def _tar(draw: random.Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{draw.choice(['', 'gz', 'bz2', 'xz'])}") as archive:
        for _ in range(draw.choice([0, 1, 2, 5, 5, 60])):
            info = tarfile.TarInfo(draw.choice(NAMES))
            content = _content(draw)
            info.size = len(content)
            if draw.random() < 0.3:
                info.type = draw.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
                                         tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE])  # fmt: skip
                info.linkname = draw.choice(NAMES)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
