"""The split of the normal images, by the hash of their bytes: a new image never moves an old one."""

from __future__ import annotations

import pandas as pd

from components.errors import UserError


def position(sha256: str) -> float:
    """A number in [0, 1) that only the file's bytes decide, uniform over files."""
    return int(sha256[:13], 16) / 16**13


def assign_parts(manifest: pd.DataFrame, val_fraction: float, calib_fraction: float) -> pd.DataFrame:
    """The manifest with `part` train, val or calib for the images of train/good; test stays test.

    Raises UserError when chance leaves a part empty, which a few dozen more images mend: moving an image
    from part to part instead would let yesterday's calibration image train tomorrow's model.
    """
    where = manifest.sha256.map(position)
    learnt = manifest.part != "test"
    parts = manifest.part.mask(learnt, "train")
    parts = parts.mask(learnt & (where < val_fraction + calib_fraction), "calib")
    parts = parts.mask(learnt & (where < val_fraction), "val")
    for part in ("train", "val", "calib"):
        if not (parts == part).any():
            raise UserError(
                f"no image falls into the '{part}' part of {int(learnt.sum())} normal images; add more images"
            )
    return manifest.assign(part=parts)
