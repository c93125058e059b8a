"""The manifest: one row per image file of a category, and the checks that the files must pass.

Nothing here raises on a bad image; its row says what is wrong (`error`), so that one look reports every bad
file, and `check` or Great Expectations decides.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from components.dataset.images import SUFFIXES, bits_used, decode, read_bytes, read_mask
from components.errors import UserError
from components.settings import Dataset

COLUMNS = (
    "path", "part", "label", "defect", "mask", "width", "height", "channels", "bit_depth", "bits",
    "bytes", "sha256", "brightness", "sharpness", "error",
)  # fmt: skip
MASK_ENDING = "_mask"
CLUTTER = {"thumbs.db", "desktop.ini"}  # what file managers leave in folders
AT_ONCE = 256  # files given to the pool at a time: a task of its own for each of many thousands costs a kilobyte


@dataclass(frozen=True, slots=True)
class Row:
    """What one file is: see `build_manifest` for the units."""

    path: str
    part: str
    label: int
    defect: str
    mask: str = ""
    width: int = 0
    height: int = 0
    channels: int = 0
    bit_depth: int = 0
    bits: int = 0
    bytes: int = 0
    sha256: str = ""
    brightness: float = 0.0
    sharpness: float = 0.0
    error: str = ""


def build_manifest(category_dir: Path, workers: int | None = None, max_megapixels: float = 100.0) -> pd.DataFrame:
    """Read every file of a category once and return the manifest: train first, then test, by path.

    Columns: path and mask (posix, relative to `category_dir`), part (train | test), label (0 normal,
    1 defective), defect ("good" or its type), width and height (pixels), channels (1 | 3), bit_depth (8 | 16),
    bits (8, 10, 12, 14 | 16: as many as its largest value needs), bytes, sha256 (hex, of the file), brightness (mean,
    0..1 of the dtype's range), sharpness (variance of the Laplacian of that 0..1 grey image), error ("" or why the file
    cannot be used). A mask without an image has a row of its own, with that error. Memory holds one image per worker.
    An absent folder gives no rows.
    """
    folders = [("train", "good", category_dir / "train" / "good")]
    folders += [("test", kind.name, kind) for kind in folders_of(category_dir / "test")]
    return list_images(category_dir, folders, ("test", category_dir / "ground_truth"), workers, max_megapixels)


def list_images(
    category_dir: Path, folders: Sequence[tuple[str, str, Path]], truth: tuple[str, Path],
    workers: int | None = None, max_megapixels: float = 100.0,
) -> pd.DataFrame:  # fmt: skip
    """The manifest of some folders, (part, defect, folder) each; `truth`: whose masks they are, and the folder that
    has them in folders of their defects."""
    masks = _masks(category_dir, truth[1])
    owners: dict[str, str] = {}
    planned = []
    for part, defect, folder in folders:
        label = int(defect != "good")
        for file in files_of(folder):
            path = file.relative_to(category_dir).as_posix()
            mask = masks.get((defect, file.stem), "") if label else ""
            planned.append(Row(path, part, label, defect, mask, error=_shared(owners, mask, path)))
    rows = describe_files(category_dir, planned, workers, max_megapixels)
    orphans = [
        Row(mask, truth[0], 1, defect, error=f"mask {category_dir / mask} has no image; add the image or remove it")
        for (defect, _), mask in masks.items()
        if mask not in owners
    ]
    return to_frame([*rows, *orphans])


def describe_files(
    base: Path, rows: Sequence[Row], workers: int | None = None, max_megapixels: float = 100.0
) -> list[Row]:
    """Fill in the measured columns of `rows`, whose paths are relative to `base`, in a pool of threads."""
    described: list[Row] = []
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            described += pool.map(lambda row: describe(base, row, max_megapixels), some)
    return described


def describe(base: Path, row: Row, max_megapixels: float) -> Row:
    """Measure one file; whatever is wrong with it or its mask becomes the row's `error`."""
    found: dict[str, Any] = {}
    path = base / row.path
    try:
        data = read_bytes(path)
        found |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is not an image (its name ends in '{path.suffix}'); remove it")
        image = decode(data, path, max_megapixels)
        found |= measure(image)
        if row.mask:
            read_mask(base / row.mask, image.shape[0], image.shape[1], max_megapixels)
    except UserError as error:
        found["error"] = row.error or str(error)
    return replace(row, **found)


def measure(image: np.ndarray) -> dict[str, float | int]:
    """H x W x C uint8 | uint16 -> size, channels, bit_depth, bits used, brightness (0..1) and sharpness (>= 0)."""
    grey = image.mean(axis=2, dtype=np.float64) / float(np.iinfo(image.dtype).max)
    return {
        "width": int(image.shape[1]),
        "height": int(image.shape[0]),
        "channels": int(image.shape[2]),
        "bit_depth": 8 * image.dtype.itemsize,
        "bits": bits_used(image),
        "brightness": float(grey.mean()),
        "sharpness": float(cv2.Laplacian(grey, cv2.CV_64F).var()),
    }


def to_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows -> the manifest, in the order of COLUMNS and with its types, also when there are none."""
    whole = ("label", "width", "height", "channels", "bit_depth", "bits", "bytes")
    kinds = dict.fromkeys(COLUMNS, "str") | dict.fromkeys(whole, "int64")
    kinds |= {"brightness": "float64", "sharpness": "float64"}
    rows = list(rows)
    return pd.DataFrame({name: pd.Series([getattr(row, name) for row in rows], dtype=kinds[name]) for name in COLUMNS})


def check(manifest: pd.DataFrame, settings: Dataset) -> None:
    """Raise UserError, naming files, for what must not be trained or evaluated on.

    Refused: unusable files (unreadable, a mask of another size, a mask without an image), fewer than
    `min_images` normal images outside the test part, the same bytes in train and test. Allowed: a defective
    image without a mask or with an empty one; it counts for the image-level metrics only.
    """
    bad = manifest[manifest["error"] != ""]
    if len(bad):
        shown = list(bad["error"].iloc[:3])
        rest = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        head = f"{len(bad)} files cannot be used: " if len(bad) > 1 else ""
        raise UserError(head + "; ".join(shown) + rest)
    learned = manifest[manifest["part"] != "test"]
    if len(learned) < settings.min_images:
        raise UserError(
            f"only {len(learned)} normal images; at least {settings.min_images} are needed "
            "(dataset.min_images), and a hundred or more serve better"
        )
    twins = twins_of(manifest)
    if twins:
        train, test = twins[0]
        more = f" (and {len(twins) - 1} more)" if len(twins) > 1 else ""
        raise UserError(f"{train} and {test} hold the same bytes{more}; remove one, or the test means nothing")


def twins_of(manifest: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of paths (learned from, tested on) whose files hold the same bytes."""
    hashed = manifest[manifest["sha256"] != ""][["path", "part", "sha256"]]
    test = hashed["part"] == "test"
    pairs = hashed[~test].merge(hashed[test], on="sha256", suffixes=("_train", "_test"))
    return list(zip(pairs["path_train"], pairs["path_test"], strict=True))


def repeats_of(manifest: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs (first path, later path) of the same bytes within what is learned from: harmless, worth saying."""
    learned = manifest[(manifest["part"] != "test") & (manifest["sha256"] != "")]
    later = learned[learned.duplicated("sha256")]
    first = learned.drop_duplicates("sha256").set_index("sha256")["path"]
    return [(str(first[sha]), str(path)) for sha, path in zip(later["sha256"], later["path"], strict=True)]


def files_of(folder: Path) -> list[Path]:
    """The files of one folder, sorted, without hidden ones and file managers' clutter."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != "." and p.name.lower() not in CLUTTER)


def folders_of(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; none when it is not there."""
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _masks(category_dir: Path, truth: Path) -> dict[tuple[str, str], str]:
    """(defect, stem of the image) -> mask path relative to `category_dir`."""
    return {
        (kind.name, path.stem.removesuffix(MASK_ENDING)): path.relative_to(category_dir).as_posix()
        for kind in folders_of(truth)
        for path in files_of(kind)
    }


def _shared(owners: dict[str, str], mask: str, path: str) -> str:
    """Record who owns `mask`; the message when another image of the same stem does already."""
    if not mask:
        return ""
    first = owners.setdefault(mask, path)
    return "" if first == path else f"{first} and {path} share the mask {mask}; give them different names"
