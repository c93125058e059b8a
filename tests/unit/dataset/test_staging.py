"""A category appears whole or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.dataset.staging import check_name, staged
from components.errors import UserError


def put(data: Path, text: str, replace: bool = False) -> None:
    with staged(data, "nut", replace) as stage:
        (stage.category / "image.png").write_text(text)


def left(root: Path) -> list[str]:
    return [p.name for p in (root / ".kintsugi").iterdir() if p.name != "import.lock"]


def test_it_appears_at_the_end_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with staged(data, "nut") as stage:
        (stage.category / "image.png").write_text("new")
        (stage.scratch / "unpacked").mkdir()
        assert data not in stage.category.parents
        assert not (data / "nut").exists()
    assert (data / "nut" / "image.png").read_text() == "new"
    assert left(tmp_path) == []


def test_an_existing_category_is_kept_unless_replaced(tmp_path: Path) -> None:
    put(tmp_path / "data", "old")
    with pytest.raises(UserError, match="is there already"):
        put(tmp_path / "data", "new")
    assert (tmp_path / "data" / "nut" / "image.png").read_text() == "old"
    put(tmp_path / "data", "new", replace=True)
    assert (tmp_path / "data" / "nut" / "image.png").read_text() == "new"
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no"), OSError(errno.ENOSPC, "full")])
def test_an_error_leaves_the_old(tmp_path: Path, error: BaseException) -> None:
    put(tmp_path / "data", "old")
    with pytest.raises((KeyboardInterrupt, UserError)), staged(tmp_path / "data", "nut", replace=True) as stage:
        (stage.category / "image.png").write_text("half")
        raise error
    assert (tmp_path / "data" / "nut" / "image.png").read_text() == "old"
    assert left(tmp_path) == []


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"disk .* is full; free some space"), staged(tmp_path / "data", "nut"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not (tmp_path / "data" / "nut").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from components.dataset import staging
data, moment = Path(sys.argv[1]), int(sys.argv[2])
rename, done = Path.rename, 0
def counting(self, target):
    global done
    if done == moment: os.kill(os.getpid(), signal.SIGKILL)
    done += 1
    return rename(self, target)
Path.rename = counting
with staging.staged(data, "nut", replace=True) as stage:
    (stage.category / "image.png").write_text("new")
"""


@pytest.mark.parametrize("moment", [0, 1])
def test_killed_between_the_renames_the_old_comes_back(tmp_path: Path, moment: int) -> None:
    put(tmp_path / "data", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "data"), str(moment)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "data" / "nut").exists() == (moment == 0)
    with staged(tmp_path / "data", "bolt"):  # the next import of anything
        assert (tmp_path / "data" / "nut" / "image.png").read_text() == "old"
    assert left(tmp_path) == []


def test_one_import_at_a_time(tmp_path: Path) -> None:
    with (
        staged(tmp_path / "data", "nut"),
        pytest.raises(UserError, match="another import is running"),
        staged(tmp_path / "data", "bolt"),
    ):
        pytest.fail("the second import started")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "a b", "-a", "ä", "x" * 65, "a@b"])
def test_names_that_a_stage_cannot_hold(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a category"):
        check_name(name)


@pytest.mark.parametrize("name", ["bottle", "01", "metal_nut", "Line-7"])
def test_names_that_it_can(name: str) -> None:
    check_name(name)
