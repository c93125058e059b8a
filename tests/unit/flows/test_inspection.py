"""`inspect`: every image keeps its own pictures, whatever names they share and whatever lies there already."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from components import scorelog
from components.errors import UserError
from components.inspector import Inspector
from flows import drift, inspection
from tests.artifacts_fixture import write_bundle

KINDS = ("heat", "mask", "regions")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "package"
    write_bundle(folder)
    return folder


@pytest.fixture
def root(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a champion and no registry; the current folder."""
    monkeypatch.delenv(scorelog.PLACE, raising=False)
    inspector = Inspector.load(bundle, "cpu")
    monkeypatch.setattr(inspection, "champion", lambda root, category, device: (inspector, "production.brick/1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image(path: Path, side: int) -> Path:
    """A picture whose size tells which one it is: what is drawn for it has the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)
    return path


def sides(out: Path) -> dict[str, int]:
    """Path of each inspected image -> the side of the pictures that results.csv says are its own."""
    found = {}
    table = pd.read_csv(out / "results.csv", keep_default_na=False)
    for path, heat in zip(table["path"], table["picture"], strict=True):
        if heat:
            drawn = {cv2.imread(str(out / heat.replace("_heat", f"_{kind}"))).shape[0] for kind in KINDS}
            (found[path],) = drawn
    return found


def test_images_of_one_name_keep_their_own_pictures(root: Path) -> None:
    names = [f"lot{lot}/good/1.{end}" for lot in (1, 2, 3) for end in ("bmp", "png")]
    expected = {name: 40 + number for number, name in enumerate(names)}
    for name, side in expected.items():
        image(root / name, side)
    inspection.inspect(root, "brick", [Path("lot1"), Path("lot2"), Path("lot3")], root / "out")
    assert sides(root / "out") == expected
    assert len(list((root / "out").glob("*.png"))) == len(KINDS) * len(expected)


def test_a_second_inspection_leaves_no_picture_of_the_first(root: Path) -> None:
    out = root / "out"
    for number in (1, 2):
        image(root / "in" / f"{number}.png", 40 + number)
    mine = image(out / "mine_heat.png", 9).read_bytes()
    for side in (50, 60, 70):
        image(root / "in/1.png", side)
        inspection.inspect(root, "brick", [Path("in")], out)
        assert sides(out) == {"in/1.png": side, "in/2.png": 42}
        assert {p.name for p in out.glob("*_heat.png")} == {"1_heat.png", "2_heat.png", "mine_heat.png"}
    (root / "in/2.png").unlink()
    inspection.inspect(root, "brick", [Path("in")], out)
    assert {p.name for p in out.iterdir()} == {f"1_{kind}.png" for kind in KINDS} | {"mine_heat.png", "results.csv"}
    assert (out / "mine_heat.png").read_bytes() == mine, "what no table of ours names is not ours to remove"


def test_a_table_that_names_files_elsewhere_removes_nothing(root: Path) -> None:
    image(root / "in/1.png", 40)
    kept = image(root / "1_heat.png", 40)
    (root / "out").mkdir()
    (root / "out/results.csv").write_text(f"path,picture\na,../1_heat.png\nb,{kept}\n")
    inspection.inspect(root, "brick", [Path("in")], root / "out")
    assert kept.is_file() and sides(root / "out") == {"in/1.png": 40}


def test_pictures_beside_the_images_are_not_inspected_the_next_time(root: Path) -> None:
    image(root / "in/1.png", 40)
    for _ in range(2):
        table = inspection.inspect(root, "brick", [Path("in")], root / "in")
        assert list(table["path"]) == ["in/1.png"]


def test_an_unreadable_image_has_a_reason_and_no_picture(root: Path) -> None:
    image(root / "in/1.png", 40)
    (root / "in/2.png").write_text("no pixels")
    inspection.inspect(root, "brick", [Path("in")], root / "out")
    table = pd.read_csv(root / "out/results.csv", keep_default_na=False).set_index("path")
    assert table.loc["in/2.png", "picture"] == "" and "is not an image" in table.loc["in/2.png", "error"]
    with pytest.raises(UserError, match="does not exist"):
        inspection.inspect(root, "brick", [Path("nowhere")], root / "out")
    assert sides(root / "out") == {"in/1.png": 40}


def test_what_is_no_sample_of_the_line_stays_out_of_the_drift_log(root: Path) -> None:
    image(root / "in/1.png", 40)
    inspection.inspect(root, "brick", [Path("in")], root / "out", log=False)
    assert not drift.folder(root, "brick").exists()
    inspection.inspect(root, "brick", [Path("in")], root / "out")
    assert len(list(drift.folder(root, "brick").iterdir())) == 1
