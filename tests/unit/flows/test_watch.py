"""When waiting images are announced: enough of them, long enough, once."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.errors import UserError
from flows import plant, watch

REPO = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "settings").mkdir()
    text = (REPO / plant.FILE).read_text().replace("images: 20", "images: 3")
    (tmp_path / plant.FILE).write_text(text)
    return tmp_path


def land(root: Path, *names: str, age: float = 60) -> None:
    folder = root / "landing" / "brick"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
        os.utime(folder / name, (time.time() - age, time.time() - age))


def test_a_folder_that_may_not_be_listed_is_no_empty_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    land(root, "a.png", "b.png", "c.png")
    folder, scan = root / "landing/brick", os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    with monkeypatch.context() as patch:  # and not by chmod, as root may do anything
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(UserError, match=r"landing/brick may not be listed .Permission denied.; give this user"):
            watch.look(root, "brick", NOW)
    shutil.rmtree(folder)
    assert not watch.look(root, "brick", NOW).due  # an absent one is
    folder.touch()
    with pytest.raises(UserError, match="is no folder"):
        watch.look(root, "brick", NOW)


def test_nothing_waits(root: Path) -> None:
    assert not watch.look(root, "brick", NOW).due


def test_enough_are_due_once(root: Path) -> None:
    land(root, "a.png", "b.png")
    assert not watch.look(root, "brick", NOW).due
    land(root, "c.png")
    sight = watch.look(root, "brick", NOW)
    assert sight.due and sight.images == 3 and len(sight.digest) == 64
    watch.announced(root, "brick", sight.digest, NOW)
    assert not watch.look(root, "brick", NOW + timedelta(hours=1)).due
    land(root, "d.png")
    # The ingest that was announced will take it along; without one in an hour the announcement was lost.
    assert not watch.look(root, "brick", NOW + timedelta(minutes=59)).due
    later = watch.look(root, "brick", NOW + timedelta(hours=1))
    assert later.due and later.digest != sight.digest


def test_after_an_ingest_new_images_are_announced_at_once(root: Path) -> None:
    land(root, "a.png", "b.png", "c.png")
    watch.announced(root, "brick", watch.look(root, "brick", NOW).digest, NOW)
    closed = root / ".kintsugi/ingest/brick/done/batch.json"
    closed.parent.mkdir(parents=True)
    closed.touch()
    os.utime(closed, (NOW.timestamp() + 5,) * 2)
    land(root, "d.png")
    assert watch.look(root, "brick", NOW + timedelta(minutes=1)).due


def test_a_few_are_due_in_the_end(root: Path) -> None:
    land(root, "a.png")
    assert not watch.look(root, "brick", NOW).due
    assert not watch.look(root, "brick", NOW + timedelta(hours=23)).due
    assert watch.look(root, "brick", NOW + timedelta(hours=24)).due


def test_the_wait_starts_anew_with_new_images(root: Path) -> None:
    land(root, "a.png")
    watch.look(root, "brick", NOW)
    shutil.rmtree(root / "landing")
    watch.look(root, "brick", NOW + timedelta(hours=1))
    land(root, "b.png")
    assert not watch.look(root, "brick", NOW + timedelta(hours=30)).due


def test_what_no_ingest_took_is_announced_again(root: Path) -> None:
    land(root, "a.png", "b.png", "c.png")
    watch.announced(root, "brick", watch.look(root, "brick", NOW).digest, NOW)
    assert watch.look(root, "brick", NOW + timedelta(hours=25)).due


def test_files_being_written_and_clutter_do_not_count(root: Path) -> None:
    land(root, "a.png", ".b.png", "Thumbs.db")
    land(root, "c.png", "d.png", age=0)
    assert watch.look(root, "brick", NOW).images == 1


def test_an_interrupted_ingest_is_due(root: Path) -> None:
    (root / ".kintsugi/ingest").mkdir(parents=True)
    (root / ".kintsugi/ingest/brick.json").write_text("{}")
    sight = watch.look(root, "brick", NOW)
    assert sight.due and "interrupted" in sight.reason


def test_a_clock_that_was_moved_back_neither_hides_images_nor_silences_the_watch(root: Path) -> None:
    land(root, "a.png", "b.png", "c.png")
    watch.announced(root, "brick", watch.look(root, "brick", NOW).digest, NOW)
    land(root, "d.png")
    earlier = NOW - timedelta(days=2)
    sight = watch.look(root, "brick", earlier)
    assert sight.due and sight.images == 4  # without that, "announced, and not yet ingested" for two days
    land(root, "a.png", "b.png", "c.png", "d.png", age=-2 * 86400)  # written before the clock went back
    assert watch.look(root, "brick", earlier).images == 4


def test_an_ingest_that_broke_off_is_asked_for_again_within_the_hour(root: Path) -> None:
    land(root, "a.png", "b.png", "c.png")
    watch.announced(root, "brick", watch.look(root, "brick", NOW).digest, NOW)
    (root / ".kintsugi/ingest/brick.json").write_text("{}")  # it wrote its journal, and died before the first move
    assert not watch.look(root, "brick", NOW + timedelta(minutes=59)).due
    assert watch.look(root, "brick", NOW + timedelta(minutes=61)).due
