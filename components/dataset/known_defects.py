"""Known defects: real ones, shown to the calibration, and for that never tested on and never trained on.

data/<category>/known/images/<kind>/NAME.png, and for as many as somebody has drawn
known/masks/<kind>/NAME_mask.png. One folder holds both: they come and go together.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from components.dataset.images import read_image
from components.dataset.manifest import MASK_ENDING, files_of, folders_of, list_images
from components.errors import UserError

FOLDER, IMAGES, MASKS = "known", "images", "masks"
PART = "known"  # in the manifest
SAME_BRIGHTNESS = 1e-6  # equal pixels have equal means, up to the order of the sum and to 8 bits stored as 16


def list_known(category_dir: Path, max_megapixels: float = 100.0) -> pd.DataFrame:
    """The known defects' manifest: the columns of `build_manifest`, part "known", label 1; no rows without any.

    As there, `error` says why a file cannot be used. Read once, one image per worker in memory.
    """
    base = category_dir / FOLDER
    folders = [(PART, kind.name, kind) for kind in folders_of(base / IMAGES)]
    found = list_images(category_dir, folders, (PART, base / MASKS), max_megapixels=max_megapixels)
    if found.empty:
        return found
    found["label"] = 1
    found["error"] = [
        error or _misnamed(category_dir / path) for path, error in zip(found.path, found.error, strict=True)
    ]
    return found


def check_known(
    holder: Path, known: pd.DataFrame, category_dir: Path, manifest: pd.DataFrame, max_megapixels: float
) -> None:
    """Raise UserError for files out of place, unusable ones, and a defect that is also trained or tested on.

    An image is the same as another when its bytes are, whatever its name, or its decoded pixels, whatever its
    format: grey stored as RGB and 8 bits stored as 16 are recognised, a copy saved with loss is not. `holder` is the
    folder that `known` lists, `category_dir` that of `manifest`: during an import they are two.
    """
    base = holder / FOLDER
    strange = [*files_of(base), *files_of(base / IMAGES), *files_of(base / MASKS)]
    strange += [p for p in folders_of(base) if p.name not in (IMAGES, MASKS)]
    if strange:
        place = strange[0].relative_to(holder)
        right = f"known defects lie in {FOLDER}/{IMAGES}/KIND, masks in {FOLDER}/{MASKS}/KIND"
        raise UserError(f"{place} is out of place ({right}); move it")
    bad = known[known["error"] != ""]
    if len(bad):
        more = f"; and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(f"a known defect cannot be used: {bad['error'].iloc[0]}{more}")
    if (known["defect"] == "good").any():
        raise UserError(f"{FOLDER}/{IMAGES}/good holds no defects; name the folder after their kind, or remove it")
    for _, row in known.iterrows():
        for _, other in _alike(row, manifest).iterrows():
            paths = holder / str(row["path"]), category_dir / str(other["path"])
            if row["sha256"] != other["sha256"] and not _same_pixels(*paths, max_megapixels):
                continue
            if other["part"] == "test":
                told = "is in the test set too; remove one of the two, or the test means nothing"
            else:
                told = "is among the normal images too; remove the one that is wrong"
            raise UserError(f"the known defect {row['path']} {told}: {other['path']}")


def keep_known(old: Path, new: Path) -> None:
    """Copy the known defects of the category folder `old`, if it has any, to its successor."""
    if (old / FOLDER).is_dir():
        shutil.copytree(old / FOLDER, new / FOLDER, dirs_exist_ok=True)


def _misnamed(path: Path) -> str:
    told = f"{path} is called like a mask; masks belong into {FOLDER}/{MASKS}, images have other names"
    return told if path.stem.endswith(MASK_ENDING) else ""


def _alike(row: pd.Series, manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows that can be the same image, the test set's first: of equal bytes, or size and brightness."""
    size = (manifest["width"] == row["width"]) & (manifest["height"] == row["height"])
    light = (manifest["brightness"] - row["brightness"]).abs() < SAME_BRIGHTNESS
    near = manifest[(manifest["error"] == "") & ((manifest["sha256"] == row["sha256"]) | (size & light))]
    return near.sort_values("part", key=lambda part: part != "test", kind="stable")


def _same_pixels(one: Path, other: Path, max_megapixels: float) -> bool:
    first, second = (_common(read_image(path, max_megapixels)) for path in (one, other))
    return np.array_equal(first, second)


def _common(image: np.ndarray) -> np.ndarray:
    """16 bits and three channels, whatever it was stored in."""
    deep = image.astype(np.uint16) * np.uint16(257) if image.dtype == np.uint8 else image
    return np.broadcast_to(deep, (*image.shape[:2], 3))
