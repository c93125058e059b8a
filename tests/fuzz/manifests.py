"""Folders with names and contents that nobody expects, brought in as a category."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.dataset import importers
from components.settings import Dataset
from tests.fuzz import images
from tests.fuzz.bend import bent

SETTINGS = Dataset(size=32, val_fraction=0.2, calib_fraction=0.2, min_images=2, max_megapixels=1.0)
STEMS = [
    "a",
    "b",
    "c",
    "A",
    "a_mask",
    "a b",
    "-rf",
    "ü",
    "\u202eb",
    "x" * 200,
    ".hidden",
    "Thumbs",
    "a,b",
    "a\nb",
    "'",
    "%s",
]
ENDS = [".png", ".PNG", ".jpg", ".tif", "", ".txt", ".png.exe", "_mask.png"]
FOLDERS = [
    "", "train/good", "test/good", "test/crack", "ground_truth/crack", "train", "test", "test/-x", "deep/er/still",
    "train/ok", "test/ok", "test/ko", "ground_truth/ko", "MT_Free", "MT_Blowhole/Imgs",
]  # fmt: skip
DECOY = "decoy"  # a file beside the folder; benchmarks/fuzz.py sees whether it stays as it is
CATEGORIES = ["bolt", "bolt", "bolt", "..", "../x", "a/b", "", ".", "x" * 65, "a\nb", "production", "-x", "\0"]


def case(draw: random.Random, folder: Path) -> None:
    """Import one hostile folder by one of the importers; data/ holds a whole category or nothing."""
    source, data = folder / "source", folder / "data"
    source.mkdir()
    for _ in range(draw.choice([0, 2, 6, 12])):
        _put(draw, source / draw.choice(FOLDERS) / (draw.choice(STEMS) + draw.choice(ENDS)), folder)
    category = draw.choice(CATEGORIES)
    options: dict[str, Any] = {}
    if draw.random() < 0.3:
        options = {"defects": source / draw.choice(FOLDERS), "masks": source / draw.choice(FOLDERS)}
    choices: list[Callable[..., Any]] = [
        importers.import_folder, importers.import_mvtec, importers.import_btad, importers.import_magnetic_tile,
    ]  # fmt: skip
    importer = draw.choice(choices)
    if importer is not importers.import_folder:
        options = {}
    try:
        importer(source / draw.choice(["", "", "", "train", "nothing"]), data, category, SETTINGS, **options)
    finally:
        assert {path.name for path in folder.iterdir()} <= {"source", "data", ".kintsugi"}
        assert not data.exists() or {path.name for path in data.iterdir()} <= {"bolt", "production"}
        assert not list(data.rglob("*")) or not any(path.is_symlink() for path in data.rglob("*"))


def _put(draw: random.Random, path: Path, folder: Path) -> None:
    """Write one entry, and only inside: a link that was made before must never be followed by a test itself."""
    if path.exists() or any(each.is_symlink() for each in (path, *path.parents)):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = draw.random()
        if kind < 0.7:
            noise = np.frombuffer(draw.randbytes(9 * 7 * 3), np.uint8).reshape(9, 7, 3)
            path.write_bytes(cv2.imencode(".png", noise)[1].tobytes())
        elif kind < 0.9:
            path.write_bytes(bent(draw.choice(images.seeds()), draw))
        elif kind < 0.95:
            path.symlink_to(draw.choice([str(folder.parent / DECOY), str(folder), "nowhere", "."]))
        else:
            os.mkfifo(path)
    except OSError:  # a name that this file system does not take, or one that is taken
        return
