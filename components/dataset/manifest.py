"""The manifest: one row for each image of a category, and what must hold before anything is learnt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.dataset.images import SUFFIXES, read_image, read_mask
from components.errors import UserError
from components.settings import Dataset

COLUMNS = (
    "path", "part", "label", "defect", "mask", "width", "height", "channels", "bit_depth", "bytes", "sha256",
    "brightness", "sharpness", "error",
)  # fmt: skip
IN_FLIGHT = 64  # images decoded at once: memory does not grow with the folder
SHOWN = 3  # offenders that a message names


def build_manifest(category: Path, workers: int | None = None, max_megapixels: float = 100) -> pd.DataFrame:
    """Read every image of data/<category> and describe it, in the order of its path.

    Columns as in COLUMNS: `path` and `mask` relative to the folder, `part` train or test, `brightness` the
    mean in 0..1, `sharpness` the variance of the Laplacian of the 0..1 grey image. A file that cannot be
    read has the reason in `error` and zeros elsewhere; nothing is raised for it.
    """
    train = _files(category / "train" / "good")
    todo = [(path, "train", "good") for path in train]
    test = category / "test"
    for folder in sorted(p for p in test.iterdir() if p.is_dir()) if test.is_dir() else []:
        todo += [(path, "test", folder.name) for path in _files(folder)]
    masks = masks_by_image(category)

    def row(item: tuple[Path, str, str]) -> dict[str, object]:
        path, part, defect = item
        mask = masks.get((defect, path.stem)) if part == "test" and defect != "good" else None
        return describe(path, mask, max_megapixels) | {
            "path": path.relative_to(category).as_posix(),
            "part": part,
            "label": int(defect != "good"),
            "defect": defect,
            "mask": mask.relative_to(category).as_posix() if mask else "",
        }

    return pd.DataFrame(list(_in_blocks(row, todo, workers)), columns=list(COLUMNS))


def _in_blocks(row, todo, workers):  # type: ignore[no-untyped-def]
    with ThreadPoolExecutor(workers) as pool:
        items = iter(todo)
        while block := list(islice(items, IN_FLIGHT)):
            yield from pool.map(row, block)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")) if folder.is_dir() else []


def masks_by_image(category: Path) -> dict[tuple[str, str], Path]:
    """(defect type, image's stem) to its mask under ground_truth/<defect>/<stem>_mask.*."""
    found: dict[tuple[str, str], Path] = {}
    for path in _masks(category):
        found[(path.parent.name, path.stem.removesuffix("_mask"))] = path
    return found


def _masks(category: Path) -> Iterator[Path]:
    truth = category / "ground_truth"
    for folder in sorted(p for p in truth.iterdir() if p.is_dir()) if truth.is_dir() else []:
        yield from _files(folder)


def describe(path: Path, mask: Path | None, max_megapixels: float) -> dict[str, object]:
    """What one image file is: size, channels, depth, bytes, hash, brightness, sharpness, or why not."""
    raw = path.read_bytes()
    facts: dict[str, object] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "error": ""}
    try:
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is not an image ({path.suffix or 'no suffix'}); remove it")
        image = read_image(path, max_megapixels)
        if mask:
            read_mask(mask, *image.shape[:2])
    except UserError as error:
        return facts | {"width": 0, "height": 0, "channels": 0, "bit_depth": 0, "brightness": 0.0, "sharpness": 0.0,
                        "error": str(error)}  # fmt: skip
    height, width, channels = image.shape
    full = float(np.iinfo(image.dtype).max)
    grey = image.mean(axis=2, dtype=np.float64) / full
    return facts | {
        "width": width, "height": height, "channels": channels, "bit_depth": image.dtype.itemsize * 8,
        "brightness": float(grey.mean()), "sharpness": float(cv2.Laplacian(grey, cv2.CV_64F).var()),
    }  # fmt: skip


def check(manifest: pd.DataFrame, config: Dataset, category: Path | None = None) -> None:
    """Raise UserError, in one line, for the first thing that makes the category unfit to learn from.

    Files that cannot be read, too few normal images, equal bytes in train and test; with the `category`
    folder also masks that belong to no image.
    """
    broken = manifest[manifest.error != ""]
    if len(broken):
        raise UserError(f"{len(broken)} file(s) cannot be used: {_some(broken.error)}")
    normal = manifest[(manifest.part != "test") & (manifest.label == 0)]
    if len(normal) < config.min_images:
        raise UserError(
            f"{len(normal)} normal images are too few; add at least {config.min_images - len(normal)} to train/good"
        )
    test = manifest[manifest.part == "test"]
    both = normal.merge(test, on="sha256", suffixes=("_train", "_test"))
    if len(both):
        pairs = both.path_train + " = " + both.path_test
        raise UserError(
            f"{len(both)} image(s) are in train and in test, byte for byte: {_some(pairs)}; remove one of each"
        )
    if category is not None:
        used = set(manifest["mask"])
        orphans = [m for m in _masks(category) if m.relative_to(category).as_posix() not in used]
        if orphans:
            names = pd.Series([m.relative_to(category).as_posix() for m in orphans])
            raise UserError(f"{len(orphans)} mask(s) have no image: {_some(names)}; remove them or add the images")


def _some(texts: pd.Series) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(map(str, texts[:SHOWN])) + more
