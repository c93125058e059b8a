"""What a category's images look like: one row per file, measured once, with a thumbnail to compare by.

A thumbnail and not one of the usual 64-bit perceptual hashes: parts photographed in a fixture share
their coarse shape, and the difference hash of nearly every bottle of MVTec AD equals that of another bottle
(see docs/adr/0005-ingest.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.dataset.images import read_image
from components.dataset.manifest import Row, describe, files_of, to_frame
from components.errors import UserError

SIDE = 32  # of the thumbnail
THUMBNAIL = [f"t{i}" for i in range(SIDE * SIDE)]
RANGE_FLOOR = {"brightness": 0.02, "sharpness": 0.25}  # of brightness, and of the logarithm of sharpness


def thumbnail(image: np.ndarray) -> np.ndarray:
    """H x W x C uint8 | uint16 -> float32 (SIDE * SIDE), grey in 0..1, its mean taken off.

    Taking the mean off makes a re-exposed copy a copy.
    """
    grey = image.mean(axis=2, dtype=np.float32) / np.float32(np.iinfo(image.dtype).max)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    return np.asarray(small - small.mean(), dtype=np.float32)


def look(base: Path, rows: Sequence[Row], max_megapixels: float) -> pd.DataFrame:
    """Manifest rows -> the manifest with its measures, and the thumbnail's columns (0 where unreadable)."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(lambda row: _look(base, row, max_megapixels), rows))
    frame = to_frame([row for row, _ in seen])
    thumbnails = np.stack([small for _, small in seen]) if seen else np.zeros((0, SIDE * SIDE), np.float32)
    return pd.concat([frame, pd.DataFrame(thumbnails, columns=THUMBNAIL, index=frame.index)], axis=1)


def _look(base: Path, row: Row, max_megapixels: float) -> tuple[Row, np.ndarray]:
    found = describe(base, row, max_megapixels)
    empty = np.zeros(SIDE * SIDE, np.float32)
    if found.error:
        return found, empty
    try:
        return found, thumbnail(read_image(base / row.path, max_megapixels))
    except UserError as error:  # it changed since it was described
        return Row(**{**vars(found), "error": str(error)}), empty


def images_of(data: Path, cache: Path, max_megapixels: float) -> pd.DataFrame:
    """Rows of train/good, test/*/ and known defects of the category `data`; what `cache` knows is not read again.

    A file is known by its path, size and time of change. The cache is a Parquet file; one that cannot be
    read is made anew.
    """
    folders = [("train", data / "train" / "good")]
    folders += [("test", folder) for folder in sorted((data / "test").glob("*")) if folder.is_dir()]
    folders += [("known", folder) for folder in sorted((data / "known" / "images").glob("*")) if folder.is_dir()]
    rows, stamps = [], []
    for part, folder in folders:
        for path in files_of(folder):
            defect = folder.name
            rows.append(Row(path.relative_to(data).as_posix(), part, int(defect != "good"), defect))
            stat = path.stat()
            stamps.append(f"{rows[-1].path}|{stat.st_size}|{stat.st_mtime_ns}")
    before = _cached(cache)
    fresh = [row for row, stamp in zip(rows, stamps, strict=True) if stamp not in before.index]
    found = look(data, fresh, max_megapixels)
    found.index = pd.Index([stamp for stamp in stamps if stamp not in before.index], dtype=object)
    everything = pd.concat([before, found]) if len(before) else found
    table = everything.loc[stamps]
    if len(fresh) or len(before) != len(table):
        cache.parent.mkdir(parents=True, exist_ok=True)
        scratch = cache.with_name(f".{cache.name}.part")
        table.to_parquet(scratch)
        os.replace(scratch, cache)
    return table.reset_index(drop=True)


def _cached(cache: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(cache)
    except (FileNotFoundError, OSError, ValueError):  # pyarrow's errors are both of the latter
        return look(Path(), [], 1)


def thumbnails_of(table: pd.DataFrame) -> np.ndarray:
    """The thumbnails of a table of `look`: float32 (rows, SIDE * SIDE)."""
    return table[THUMBNAIL].to_numpy(np.float32)


def distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """RMS difference of every pair of thumbnails: float32 (len(some), len(others))."""
    squares = (some**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * some @ others.T
    return np.asarray(np.sqrt(np.maximum(squares, 0) / some.shape[1]), dtype=np.float32)


def near_limit(train: np.ndarray, wanted: float) -> float:
    """The difference below which two pictures count as one: `wanted`, or less where all images are alike.

    A quarter of the median distance from an image to its nearest neighbour keeps clear of real pairs.
    """
    if len(train) < 2:
        return wanted
    sample = train[:: max(1, len(train) // 500)]
    between: np.ndarray = distances(sample, sample)
    np.fill_diagonal(between, np.inf)
    return min(wanted, float(np.median(between.min(1))) / 4)


def ranges(train: pd.DataFrame, margin: float) -> Mapping[str, tuple[float, float]]:
    """Column -> the least and greatest value that an image may have to be one of this category.

    Size, channels and bit depth as seen in train/good; brightness and (on a logarithmic scale, as it spans
    decades) sharpness with `margin` times their range on either side.
    """
    seen = train[train["error"] == ""]
    if not len(seen):
        return {}
    found = {
        column: (float(seen[column].min()), float(seen[column].max()))
        for column in ("width", "height", "channels", "bit_depth")
    }
    low, high = _widened(seen["brightness"].to_numpy(), margin, RANGE_FLOOR["brightness"])
    found["brightness"] = (max(low, 0.0), min(high, 1.0))
    low, high = _widened(np.log(seen["sharpness"].to_numpy() + 1e-9), margin, RANGE_FLOOR["sharpness"])
    found["sharpness"] = (float(np.exp(low)), float(np.exp(high)))
    return found


def _widened(values: np.ndarray, margin: float, floor: float) -> tuple[float, float]:
    more = max(margin * float(values.max() - values.min()), floor)
    return float(values.min()) - more, float(values.max()) + more
