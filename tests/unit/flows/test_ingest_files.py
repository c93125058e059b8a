"""Moves that may be repeated, names, thumbnails and settings of the plant."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.errors import UserError
from flows import plant
from flows.ingest import files, journal, judge, known
from flows.ingest.journal import Batch, Decision, Fate

REPO = Path(__file__).resolve().parents[3]


def test_a_move_may_be_repeated_at_will(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "there" / "a"
    source.write_bytes(b"bytes")
    digest = files.sha256(source)
    for _ in range(2):
        assert files.move(source, target, digest, tmp_path / "scratch")
        assert target.read_bytes() == b"bytes" and not source.exists()
    source.write_bytes(b"bytes")  # a crash after a copy, before the source went
    assert files.move(source, target, digest, tmp_path / "scratch") and not source.exists()


def test_a_move_to_itself_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    digest = files.sha256(tmp_path / "a")
    assert files.move(tmp_path / "a", tmp_path / "a", digest, tmp_path) and (tmp_path / "a").exists()


@pytest.mark.parametrize("change", ["rewritten", "gone", "target taken"])
def test_a_file_that_is_not_what_was_judged_stays(tmp_path: Path, change: str) -> None:
    source, target = tmp_path / "a", tmp_path / "there" / "a"
    source.write_bytes(b"bytes")
    digest = files.sha256(source)
    if change == "rewritten":
        source.write_bytes(b"others")
    elif change == "gone":
        source.unlink()
    else:
        target.parent.mkdir()
        target.write_bytes(b"someone's")
    before = source.read_bytes() if source.exists() else None
    assert not files.move(source, target, digest, tmp_path / "scratch")
    assert (source.read_bytes() if source.exists() else None) == before
    assert not target.exists() or target.read_bytes() == b"someone's"


def test_across_file_systems_the_bytes_are_there_before_the_source_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a", tmp_path / "there" / "a"
    source.write_bytes(b"bytes" * 1000)
    digest, rename = files.sha256(source), os.replace

    def elsewhere(this: Path, that: Path) -> None:
        if Path(this) == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        assert source.exists()
        rename(this, that)

    monkeypatch.setattr(os, "replace", elsewhere)
    assert files.move(source, target, digest, tmp_path / "scratch")
    assert files.sha256(target) == digest and not source.exists()
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("name", ["part 12.png", "img (1).JPG", "Prüfling_03.tif", "day/0001.png"])
def test_names_that_cameras_give_are_fine(name: str) -> None:
    assert judge.bad_name(name) == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a:b.png", "characters"),
        ("new\nline.png", "characters"),
        ("-rf.png", "characters"),
        ("\udcff.png", "characters"),
        ("x" * 130 + ".png", "more than 120"),
        ("notes.txt", "'.txt'"),
        ("000_mask.png", "mask"),
    ],
)
def test_names_that_are_refused(name: str, reason: str) -> None:
    assert reason in judge.bad_name(name)


def test_a_target_is_free_safe_and_taken_once(tmp_path: Path) -> None:
    good = tmp_path / "data/brick/train/good"
    good.mkdir(parents=True)
    (good / "a.png").touch()
    taken: set[str] = set()
    targets = [judge.free_target(tmp_path, "brick", "accepted", "day/a.png", "0123456789", taken) for _ in range(3)]
    assert [Path(t).name for t in targets] == ["a-01234567.png", "a-01234567-2.png", "a-01234567-3.png"]
    odd = judge.free_target(tmp_path, "brick", "quarantined", "../.x\n\udcff.png", "0123456789", taken)
    assert odd == "quarantine/brick/x__.png"


@pytest.mark.parametrize("names", [("json/1.png.json", "png/1.png"), ("json/1.png", "png/1.png.json")])
@pytest.mark.parametrize("decisions", [("quarantined", "quarantined"), ("duplicate", "quarantined")])
def test_no_file_is_where_the_note_of_another_will_be(
    tmp_path: Path, names: tuple[str, str], decisions: tuple[Decision, Decision]
) -> None:
    """A camera's sidecar beside its image: the image's note was written over it."""
    landed, taken, fates = tmp_path / "landing", set[str](), []
    for name, decision in zip(names, decisions, strict=True):
        source = landed / name
        source.parent.mkdir(parents=True)
        source.write_text(f"the bytes of {name}")
        digest = files.sha256(source)
        target = judge.free_target(tmp_path, "brick", decision, name, digest, taken)
        fates.append(Fate(name, str(source), digest, decision, target))
    assert journal.carry_out(tmp_path, Batch("brick", str(landed), "", "now", tuple(fates)), lambda step: None) == []
    for fate in fates:
        target = tmp_path / fate.target
        assert target.read_text() == f"the bytes of {fate.name}"
        assert json.loads(target.with_name(f"{target.name}.json").read_text())["name"] == fate.name


def test_copies_are_near_and_other_pictures_are_not() -> None:
    noise = np.random.default_rng(0)
    image = cv2.GaussianBlur(noise.integers(0, 255, (200, 200, 3), dtype=np.uint8), (0, 0), 6)
    image = cv2.normalize(image, None, 40, 200, cv2.NORM_MINMAX)
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 70])
    copies = {
        "jpeg": cv2.imdecode(jpeg, cv2.IMREAD_COLOR),
        "brighter": image + 6,
        "smaller": cv2.resize(image, (120, 120), interpolation=cv2.INTER_AREA),
        "noise": np.clip(image + noise.normal(0, 3, image.shape), 0, 255).astype(np.uint8),
        "16 bit": image.astype(np.uint16) * 257,
    }
    own = known.thumbnail(image)[None]
    for name, copy in copies.items():
        assert known.distances(own, known.thumbnail(copy)[None])[0, 0] < 0.005, name
    other = known.thumbnail(np.rot90(image))[None]
    assert known.distances(own, other)[0, 0] > 0.02


def test_alike_parts_narrow_what_counts_as_a_copy() -> None:
    noise = np.random.default_rng(0).normal(0, 0.001, (20, 1024)).astype(np.float32)
    assert known.near_limit(noise, 0.005) < 0.0005
    assert known.near_limit(noise * 1000, 0.005) == 0.005


def test_measured_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = tmp_path / "brick", tmp_path / "known.parquet"
    good = data / "train/good"
    good.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name in ("a", "b"):
        cv2.imwrite(str(good / f"{name}.png"), noise.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    first = known.images_of(data, cache, 10)
    looked: list[str] = []
    real = known._look
    monkeypatch.setattr(known, "_look", lambda base, row, limit: looked.append(row.path) or real(base, row, limit))
    again = known.images_of(data, cache, 10)
    assert looked == [] and again.to_dict() == first.to_dict()
    cv2.imwrite(str(good / "b.png"), noise.integers(0, 255, (40, 32, 3), dtype=np.uint8))
    (good / "a.png").unlink()
    third = known.images_of(data, cache, 10)
    assert looked == ["train/good/b.png"] and third["height"].tolist() == [40]
    cache.write_bytes(b"torn")
    assert known.images_of(data, cache, 10)["height"].tolist() == [40]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "settings").mkdir()
    shutil.copy(REPO / plant.FILE, tmp_path / plant.FILE)
    return tmp_path


def test_settings_of_the_plant(home: Path) -> None:
    assert plant.load(home, "brick").landing(home, "brick") == str(home / "landing" / "brick")
    text = (home / plant.FILE).read_text()
    (home / plant.FILE).write_text(
        text.replace("categories: {}", "categories: {brick: {ingest: {landing: 's3://line/{category}'}}}")
    )
    assert plant.load(home, "brick").landing(home, "brick") == "s3://line/brick"
    assert plant.load(home, "tile").landing(home, "tile") == str(home / "landing" / "tile")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin:", "margn:", "unknown setting 'margn' .did you mean 'margin'"),
        ("watch:", "wach:", "unknown setting 'wach' .did you mean 'watch'"),
        ("images: 20", "images: 0", "must be at least 1"),
        ("every: 300", "every: 0", r"watch.every is 0.0; it must be more than 0"),
        ("every: 24", "every: 0", r"drift.every is 0.0; it must be more than 0"),
        ("  days: 7\n", "", "drift lacks 'days'"),
    ],
)
def test_wrong_settings_are_named(home: Path, old: str, new: str, message: str) -> None:
    (home / plant.FILE).write_text((home / plant.FILE).read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        plant.load(home, "brick")
