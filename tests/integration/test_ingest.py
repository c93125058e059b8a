"""Ingest: what joins, what is set aside, releases, locks, addresses, and SIGKILL at every step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import pytest

from components.errors import UserError
from flows import fixity, ingest, plant, validated
from flows.adapters import versioning
from flows.ingest import files, journal, judge
from flows.ingest.files import PassingError
from flows.server import exclusive
from tests import plant_fixture as plants
from tests.artifacts_fixture import REPO, set_params


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plant on `landing/brick` that commits to the branch `data`, with a quick DVC."""
    made = plants.make_plant(tmp_path / "plant", branch="data")
    (made / ".kintsugi").mkdir()
    plants.quick_dvc(monkeypatch.setattr)
    versioning.add_data(made)
    return made


def contents(root: Path) -> Counter[str]:
    """sha256 of every image and other file that landed or was there, wherever it is now."""
    places = [root / "landing", root / "data", root / "held", root / "quarantine"]
    paths = [p for place in places for p in place.rglob("*") if p.is_file() and p.name[0] != "."]
    notes = {p for p in paths if p.suffix == ".json" and p.parts[-3] in ("held", "quarantine")}
    return Counter(files.sha256(path) for path in paths if path not in notes)


def imported(root: Path) -> None:
    """As an import leaves the category that is there: versioned, and validated by Great Expectations."""
    validated.keep(root, "brick", {"success": True, "statistics": {"images": 28}, "failures": []})


def validation(root: Path) -> tuple[str, int]:
    """Which data the kept validation is of, and how many images it counts."""
    kept = validated.read(root, "brick")
    assert kept is not None and kept["success"]
    return kept["data_md5"], kept["statistics"]["images"]


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_twenty_bad_images_among_a_hundred_good_ones(tmp_path: Path) -> None:
    """With real Great Expectations, DVC and git."""
    root = plants.make_plant(tmp_path / "plant", branch="data")
    plants.land_good(root, 100)
    bad = plants.land_bad(root)
    assert len(bad) == 20
    before = contents(root)
    report = ingest.ingest(root, "brick", scorer=plants.champion)
    aside = {
        fate.name: (kind, "; ".join(fate.reasons))
        for kind in ("held", "quarantined", "duplicates")
        for fate in getattr(report, kind)
    }
    assert aside.keys() == bad.keys()
    for name, (kind, reason) in bad.items():
        assert aside[name][0] == kind and reason in aside[name][1], (name, aside[name])
    assert len(report.accepted) == 100 and all(fate.score is not None for fate in report.accepted)
    assert len(list((root / "data/brick/train/good").iterdir())) == 124
    assert contents(root) == before and not list((root / "landing/brick").iterdir())
    for folder, count in (("held", 2), ("quarantine", 18)):
        notes = sorted((root / folder / "brick").glob("*.json"))
        assert len(notes) == count
        for note in notes:
            kept = json.loads(note.read_text())
            assert kept["reasons"] and kept["sha256"] == files.sha256(note.with_suffix(""))
    held = json.loads((root / "held/brick/scratched.png.json").read_text())
    assert held["score"] > held["threshold"] and held["model"] == "production.brick/1"
    assert (root / report.docs).is_file()
    assert report.data_md5 == fixity.listing_md5(fixity.listing(root / "data"))
    assert report.data_md5 in git(root, "show", "data:data.dvc") and report.commit == git(root, "rev-parse", "data")
    assert git(root, "rev-parse", "main") != report.commit
    stored = fixity.Objects.of(root).listing(report.data_md5)
    assert stored is not None and len(stored) == 128
    again = ingest.ingest(root, "brick", scorer=plants.champion)
    assert not (again.accepted or again.held or again.quarantined) and again.data_md5 == report.data_md5
    plants.land_good(root, 1, start=5000)
    later = ingest.ingest(root, "brick", scorer=plants.champion)
    assert len(later.accepted) == 1 and later.docs != report.docs
    for docs in (report.docs, later.docs):  # each batch keeps its pages
        (page,) = (root / docs).parent.glob("validations/**/*.html")
        assert "brightness" in page.read_text() and (root / docs).is_file()
        assert (root / docs).parent.joinpath("static/images/favicon.ico").is_file()


STEPS = (
    "fetched", "judged", "json 1", "journal written", "move 1", "moved 1", "json 3", "move 3", "moved 5",
    "all moved", "versioned", "validated", "pushed", "committed", "closed",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("moment", STEPS)
def test_killed_anywhere_nothing_is_lost_doubled_or_half_done(root: Path, moment: str) -> None:
    plants.land_good(root, 4)
    landing = root / "landing/brick"
    plants.save(landing / "a-defect.png", plants.defective(3008))
    (landing / "b-empty.png").touch()
    plants.settled(landing / "b-empty.png")
    imported(root)
    before, old = contents(root), versioning.data_md5(root)
    killed = subprocess.run(
        [sys.executable, "-P", "-m", "tests.plant_fixture", moment],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert contents(root) == before
    names = {p.name for p in (root / "data/brick/train/good").iterdir()}
    now = versioning.data_md5(root)
    assert now == old or (now == fixity.listing_md5(fixity.listing(root / "data")) and len(names) == 28)

    report = plants.ingest(root)
    assert contents(root) == before and not list(landing.iterdir())
    good = sorted(p.name for p in (root / "data/brick/train/good").iterdir())
    assert good == [f"{i:03}.png" for i in range(24)] + [f"n{i:03}.png" for i in range(4)]
    for folder, name in (("held", "a-defect.png"), ("quarantine", "b-empty.png")):
        found = sorted(p.name for p in (root / folder / "brick").iterdir())
        assert [n for n in found if not n.startswith(".")] == [name, f"{name}.json"]
    assert journal.read(root, "brick") is None
    assert validation(root) == (fixity.listing_md5(fixity.listing(root / "data/brick")), 32)
    assert versioning.data_md5(root) == report.data_md5 == fixity.listing_md5(fixity.listing(root / "data"))
    assert report.data_md5 in git(root, "show", "data:data.dvc")
    assert git(root, "rev-list", "--count", "main..data") == "1"


def test_two_at_once_one_wins_and_the_other_says_so(root: Path) -> None:
    plants.land_good(root, 1)
    with exclusive(root / ".kintsugi/ingest/brick.lock"), pytest.raises(PassingError, match="is being ingested"):
        plants.ingest(root)
    assert len(plants.ingest(root).accepted) == 1


def test_images_stand_still_while_a_model_learns_from_them(root: Path) -> None:
    plants.land_good(root, 1)
    good = root / "data/brick/train/good"
    with exclusive(root / ".kintsugi/locks/brick.lock"), pytest.raises(PassingError, match="is being retrained"):
        plants.ingest(root)
    assert len(list(good.iterdir())) == 24
    assert len(plants.ingest(root).accepted) == 1 and len(list(good.iterdir())) == 25


def test_the_validation_is_of_the_images_that_were_validated(root: Path) -> None:
    imported(root)
    plants.land_good(root, 2)
    plants.save(root / "landing/brick/odd.png", plants.defective(1))
    plants.ingest(root)
    assert validation(root) == (fixity.listing_md5(fixity.listing(root / "data/brick")), 30)
    ingest.release(root, "brick", [Path("odd.png")], "Ann", "a reflection")
    known = validation(root)
    assert known == (fixity.listing_md5(fixity.listing(root / "data/brick")), 31)
    plants.save(root / "data/brick/train/good/by-hand.png", plants.texture(4000))  # nobody has looked at this one
    plants.land_good(root, 1, start=5000)
    assert len(plants.ingest(root).accepted) == 1
    assert validation(root) == known != fixity.listing_md5(fixity.listing(root / "data/brick"))


def test_a_person_releases_a_held_image(root: Path) -> None:
    image = plants.save(root / "landing/brick/odd.png", plants.defective(1))
    digest = files.sha256(image)
    assert [fate.name for fate in plants.ingest(root).held] == ["odd.png"]
    for by, why, name, message in (
        ("", "normal", "odd.png", "is signed"),
        ("Ann", " ", "odd.png", "is signed"),
        ("Ann", "a reflection", "../../data/brick/train/good/000.png", "is not held"),
        ("Ann", "a reflection", "none.png", "is not held"),
    ):
        with pytest.raises(UserError, match=message):
            ingest.release(root, "brick", [Path(name)], by, why)
    report = ingest.release(root, "brick", [root / "held/brick/odd.png"], "Ann", "a reflection")
    assert files.sha256(root / "data/brick/train/good/odd.png") == digest
    assert not list((root / "held/brick").iterdir())
    (fate,) = report.accepted
    assert (fate.by, fate.why) == ("Ann", "a reflection") and fate.score is not None
    assert "Ann: a reflection" in git(root, "log", "-1", "--format=%s", "refs/heads/data")


def test_landing_again_is_known_until_someone_takes_it_out(root: Path) -> None:
    image = plants.defective(1)
    plants.save(root / "landing/brick/odd.png", image)
    plants.ingest(root)
    plants.save(root / "landing/brick/odd.png", image)
    (fate,) = plants.ingest(root).duplicates
    assert fate.reasons == ("has the same bytes as held/odd.png",)
    for path in (root / "held/brick").iterdir():
        path.unlink()
    for path in (root / "quarantine/brick").iterdir():
        path.unlink()
    plants.save(root / "landing/brick/odd.png", image)
    assert len(plants.ingest(root).held) == 1


def test_other_names_same_name_and_files_being_written(root: Path) -> None:
    plants.save(root / "landing/brick/000.png", plants.texture(2000))
    plants.save(root / "landing/brick/monday/000.png", plants.texture(2001))
    fresh = root / "landing/brick/fresh.png"
    fresh.write_bytes(b"\x89PNG")
    report = plants.ingest(root)
    names = [Path(fate.target).name for fate in report.accepted]
    assert len(set(names)) == 2 and all(name.startswith("000-") for name in names)
    assert report.unsettled == 1 and fresh.exists()


def test_an_address_is_fetched_once(root: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    source = plants.save(root / "scratch.png", plants.texture(2000))
    memory.pipe("/line/brick/n.png", source.read_bytes())
    memory.pipe("/line/brick/bad.png", b"no pixels")
    for accepted, quarantined in ((1, 1), (0, 0)):
        report = ingest.ingest(root, "brick", "memory://line/brick", scorer=plants.champion, validator=plants.validator)
        assert (len(report.accepted), len(report.quarantined)) == (accepted, quarantined)
    assert (root / "data/brick/train/good/n.png").read_bytes() == source.read_bytes()
    assert memory.exists("/line/brick/n.png")  # the bucket is not ours to empty
    memory.pipe("/line/brick/bad.png", plants.save(root / "scratch.png", plants.texture(2001)).read_bytes())
    again = ingest.ingest(root, "brick", "memory://line/brick", scorer=plants.champion, validator=plants.validator)
    assert [fate.name for fate in again.accepted] == ["bad.png"]


def test_what_was_lost_from_the_spool_is_fetched_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash before the move, and someone who cleans up before the next ingest."""
    import fsspec

    memory, place = fsspec.filesystem("memory"), "memory://line/spooled"
    for number in range(2):
        source = plants.save(root / "scratch.png", plants.texture(2000 + number))
        memory.pipe(f"/line/spooled/n{number}.png", source.read_bytes())

    def crash(step: str) -> None:
        if step == "journal written":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "reached", crash)
        with pytest.raises(KeyboardInterrupt):
            ingest.ingest(root, "brick", place, scorer=plants.champion, validator=plants.validator)
    (root / ".kintsugi/ingest/brick/spool/n0.png").unlink()
    report = ingest.ingest(root, "brick", place, scorer=plants.champion, validator=plants.validator)
    assert [fate.name for fate in report.left] == ["n0.png"]
    assert sorted(fate.name for fate in report.accepted) == ["n0.png", "n1.png"]
    assert (root / "data/brick/train/good/n0.png").read_bytes() == memory.cat("/line/spooled/n0.png")


def test_a_copy_of_a_test_image_is_not_trained_on(root: Path) -> None:
    image = cv2.imread(str(root / "data/brick/test/good/002.png"))
    plants.save(root / "landing/brick/resaved.jpg", image)
    plants.save(root / "landing/brick/brighter.png", cv2.add(image, (6, 6, 6, 0)))
    reasons = {fate.name: fate.reasons for fate in plants.ingest(root).quarantined}
    told = ("is nearly the same picture as brick/test/good/002.png",)
    assert reasons == {"resaved.jpg": told, "brighter.png": told}


def test_no_champion_yet_none_held(root: Path) -> None:
    plants.save(root / "landing/brick/odd.png", plants.defective(1))
    report = ingest.ingest(root, "brick", scorer=lambda root, category: None, validator=plants.validator)
    assert len(report.accepted) == 1 and report.model == "" and report.accepted[0].score is None


def test_a_remote_that_fails_is_tried_again_by_the_next_ingest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: Path) -> None:
        raise UserError("dvc push failed: no route to host")

    plants.land_good(root, 2)
    with monkeypatch.context() as patch:
        patch.setattr(versioning, "push", fail)
        with pytest.raises(PassingError, match="no route"):
            plants.ingest(root)
    assert journal.read(root, "brick") is not None
    report = plants.ingest(root)
    assert len(report.accepted) == 2 and journal.read(root, "brick") is None


def test_a_git_that_is_busy_is_tried_again_by_the_next_ingest(root: Path) -> None:
    """On the branch that is checked out, whose index the commit has to follow."""
    plants.land_good(root, 1)
    (root / ".git/index.lock").touch()
    for _ in range(2):  # the branch has moved after the first, and only the index is behind
        with pytest.raises(PassingError, match=r"another git command is at work.*the next ingest commits them"):
            ingest.ingest(root, "brick", branch="main", scorer=plants.champion, validator=plants.validator)
    (root / ".git/index.lock").unlink()
    report = ingest.ingest(root, "brick", branch="main", scorer=plants.champion, validator=plants.validator)
    assert len(report.accepted) == 1 and report.commit == git(root, "rev-parse", "main")
    assert git(root, "status", "--porcelain", "--", "data.dvc") == ""


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ("night shift", "'night shift' cannot name a branch"),
        ("@{-1}", "cannot name a branch"),
        ("data/bolt", "there cannot be a branch 'data/bolt' beside 'data'"),
        ("line", "there cannot be a branch 'line' beside 'line/2'"),
    ],
)
def test_a_branch_that_cannot_be_is_refused_before_anything_moves(root: Path, branch: str, message: str) -> None:
    git(root, "branch", "data")
    git(root, "branch", "line/2")
    (image,) = plants.land_good(root, 1)
    odd = plants.save(root / "held/brick/odd.png", plants.defective(1))
    files.write_json(odd.with_name("odd.png.json"), {"reasons": [], "score": 1.0, "threshold": 0.5, "model": "m"})
    with pytest.raises(UserError, match=message):
        ingest.ingest(root, "brick", branch=branch, scorer=plants.champion, validator=plants.validator)
    with pytest.raises(UserError, match=message):
        ingest.release(root, "brick", [odd], "Ann", "a reflection", branch=branch)
    assert image.exists() and odd.exists() and journal.read(root, "brick") is None
    report = ingest.release(root, "brick", [odd], "Ann", "a reflection", branch="line/1")
    assert report.commit == git(root, "rev-parse", "line/1")


@pytest.mark.parametrize(("setting", "ends_on"), [("data", "data"), ("", "")])
def test_a_journal_with_such_a_branch_is_finished_all_the_same(root: Path, setting: str, ends_on: str) -> None:
    yaml = (root / plant.FILE).read_text()
    (root / plant.FILE).write_text(yaml.replace("branch: data", f'branch: "{setting}"'))
    (image,) = plants.land_good(root, 1)
    target = f"data/brick/train/good/{image.name}"
    fate = journal.Fate(image.name, str(image), files.sha256(image), "accepted", target)
    journal.write(root, journal.Batch("brick", "landing/brick", "night shift", "2026-01-01T00:00:00", (fate,)))
    report = plants.ingest(root)
    assert [fate.name for fate in report.accepted] == [image.name] and journal.read(root, "brick") is None
    assert (git(root, "rev-parse", ends_on) if ends_on else "") == report.commit


def test_a_landing_folder_that_may_not_be_emptied(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (image,) = plants.land_good(root, 1)
    may = os.access
    with monkeypatch.context() as patch:  # and not by chmod, as root may do anything
        patch.setattr(os, "access", lambda path, mode: path != image.parent and may(path, mode))
        with pytest.raises(UserError, match=f"cannot be moved out of {image.parent}; give this user permission"):
            plants.ingest(root)
    assert journal.read(root, "brick") is None

    def refuse(source: Path, *_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(source))

    with monkeypatch.context() as patch:
        patch.setattr(files, "move", refuse)
        with pytest.raises(PassingError, match=f"^{image} may not be moved or written .Permission denied.; mend"):
            plants.ingest(root)
    assert len(plants.ingest(root).accepted) == 1 and journal.read(root, "brick") is None


OWN = (".", "..", "data", "data/brick/train/good", "held/brick", "quarantine", "settings", "link", ".dvc/cache")


def everything(root: Path) -> dict[str, str]:
    """Path -> sha256 of each file, but what ingest and git note for themselves."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(path): files.sha256(root / path) for path in paths if path.parts[0] not in (".kintsugi", ".git")}


@pytest.mark.parametrize("by", ["command", "setting"])
@pytest.mark.parametrize("place", OWN)
def test_what_is_the_workspaces_own_is_no_landing_place(
    root: Path, place: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("held/brick/odd.png", "quarantine/brick/odd.png", ".dvc/cache/files/md5/00/11"):
        plants.settled(plants.save(root / "scratch.png", plants.defective(1)).rename(made(root / name)))
    (root / "link").symlink_to("data/brick/train/good")
    before = everything(root)
    if by == "setting":
        yaml = (root / plant.FILE).read_text()
        (root / plant.FILE).write_text(yaml.replace("landing: landing/{category}", f"landing: {place}"))
        before[plant.FILE] = files.sha256(root / plant.FILE)
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match="holds files of the workspace itself, and an ingest"):
        ingest.ingest(
            root, "brick", Path(place) if by == "command" else None, scorer=plants.champion, validator=plants.validator
        )
    assert everything(root) == before and journal.read(root, "brick") is None


def test_data_and_cache_that_are_links_are_the_workspaces_own_too(root: Path, tmp_path: Path) -> None:
    """A disk of their own for images and cache, which what lands may share, but not around them."""
    disk = tmp_path / "disk"
    shutil.move(root / "data/brick", made(disk / "brick"))
    (root / "data/brick").symlink_to(disk / "brick")
    (root / ".dvc/config.local").write_text(f"[cache]\n    dir = {disk / 'cache'}\n")
    plants.settled(plants.save(root / "scratch.png", plants.texture(2000)).rename(made(disk / "new/n.png")))
    (disk / "cache").mkdir()
    before = everything(disk)
    for place in (disk, disk / "brick/train/good", disk / "cache"):
        with pytest.raises(UserError, match="holds files of the workspace itself"):
            ingest.ingest(root, "brick", place, scorer=plants.champion, validator=plants.validator)
    assert everything(disk) == before
    report = ingest.ingest(root, "brick", disk / "new", scorer=plants.champion, validator=plants.validator)
    assert [fate.name for fate in report.accepted] == ["n.png"]


def test_a_category_that_is_not_here_is_told_before_anything_moves(root: Path) -> None:
    """An ingest would version data/ without it, and commit that."""
    set_params(root, "auto", ("brick", "nut"))
    plants.save(root / "data/nut/train/good/000.png", plants.texture(1))
    listing = fixity.listing(root / "data")
    md5 = versioning.add_data(root)
    kept = made(root / ".dvc/cache/files/md5" / md5[:2] / md5[2:])
    kept.write_text(json.dumps([{"md5": each, "relpath": path} for path, each in sorted(listing.items())]))
    shutil.rmtree(root / "data/nut")
    (image,) = plants.land_good(root, 1)
    odd = plants.save(root / "held/brick/odd.png", plants.defective(1))
    files.write_json(
        odd.with_name("odd.png.json"), {"sha256": "", "reasons": [], "score": 1, "threshold": 0.5, "model": ""}
    )
    with pytest.raises(UserError, match="data/nut would be recorded as deleted"):
        plants.ingest(root)
    with pytest.raises(UserError, match="data/nut would be recorded as deleted"):
        ingest.release(root, "brick", [odd], "Ann", "a reflection")
    assert image.exists() and odd.exists() and versioning.data_md5(root) == md5
    plants.save(root / "data/nut/train/good/000.png", plants.texture(1))
    assert len(plants.ingest(root).accepted) == 1


def made(path: Path) -> Path:
    """The path, with a folder for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_wrong_landing_and_category(root: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        ingest.ingest(root, "brick", root / "nowhere")
    with pytest.raises(UserError, match="did you mean 'brick'"):
        ingest.ingest(root, "brik")
    assert judge.bad_name("000.png") == ""
