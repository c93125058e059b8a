"""Archives from strangers: what is unsafe is refused by name, and nothing of it is written."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.dataset.archive import is_archive, safe_path, unpack
from components.errors import UserError

BAD_NAMES = ["../evil.png", "good/../../evil.png", "/etc/evil.png", "C:/evil.png", "..\\evil.png", "\\evil.png"]


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def refused(archive: Path, target: Path, **limits: int) -> str:
    with pytest.raises(UserError) as caught:
        unpack(archive, target, **limits)
    assert "\n" not in str(caught.value)
    assert not target.exists(), "nothing was written"
    assert not (target.parent / "evil.png").exists()
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_honest_archives(tmp_path: Path, name: str) -> None:
    members = {"top/a b.png": b"1", "top/ünter/画.png": b"22", "./top/c.png": b""}
    mode = {"tar": "w", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(name.rsplit(".", 1)[1], "")
    archive = make_tar(tmp_path / name, members, mode) if mode else make_zip(tmp_path / name, members)
    assert is_archive(archive)
    unpack(archive, tmp_path / "out")
    found = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.png")}
    assert found == {"top/a b.png": b"1", "top/ünter/画.png": b"22", "top/c.png": b""}


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_members_that_leave_the_folder(tmp_path: Path, make, name: str) -> None:  # type: ignore[no-untyped-def]
    archive = make(tmp_path / "a", {"fine.png": b"x", name: b"x"})
    assert repr(name) in refused(archive, tmp_path / "out")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab./\\: \0é"), max_size=14))
@example("a/..b/c")
@example("....//")
def test_a_name_stays_below_or_is_refused(name: str) -> None:
    try:
        path = safe_path(name)
    except UserError:
        return
    base = Path("/base")
    landed = Path(*(base / path).parts).resolve()
    assert landed == base or base in landed.parents
    assert not path.is_absolute()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("innocent.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    assert "'innocent.png' is a link or a device" in refused(tmp_path / "a.tar", tmp_path / "out")


def test_links_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("innocent.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "'innocent.png' is a link" in refused(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_bombs(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    large = make(tmp_path / "large", {"zeros.png": bytes(3_000_000)})
    assert large.stat().st_size < 10_000
    assert "unpacks to more than" in refused(large, tmp_path / "out", max_bytes=2_000_000)
    many = make(tmp_path / "many", {f"{i}.png": b"" for i in range(12)})
    assert "more than 11 members" in refused(many, tmp_path / "out", max_members=11)


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    """The list says 10 bytes where 3 MB come out; the count is kept while writing."""
    data = make_zip(tmp_path / "a.zip", {"zeros.png": bytes(3_000_000)}).read_bytes()
    lied = data.replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "a.zip").write_bytes(lied)
    with pytest.raises(UserError):
        unpack(tmp_path / "a.zip", tmp_path / "out", max_bytes=2_000_000)
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file()) <= 2_000_000


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_truncated_archive(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    import random

    archive = make(tmp_path / "a", {"a.png": random.Random(0).randbytes(50_000)})
    archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(UserError, match="damaged"):
        unpack(archive, tmp_path / "out")


def test_the_same_name_twice_and_a_file_as_a_folder(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
        archive.addfile(tarfile.TarInfo("./a.png"))
    assert "'a.png' twice" in refused(tmp_path / "a.tar", tmp_path / "out")
    below = make_tar(tmp_path / "b.tar", {"a": b"", "a/b.png": b""})
    assert "below a file" in refused(below, tmp_path / "out")


def test_an_encrypted_member(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "a.zip", {"a.png": b"secret"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    (tmp_path / "a.zip").write_bytes(data)
    assert "encrypted" in refused(tmp_path / "a.zip", tmp_path / "out")
