"""Which normal images train, which stop the training, which set thresholds: decided by each file's bytes.

The part of an image is a function of its own hash alone, so a new image never moves an old one. No rule that
keeps this promise can also promise that a small set has all three parts (a set that must borrow an image
would have to give it back when the next one lands), so a set without one is refused, never rearranged.
"""

from __future__ import annotations

import pandas as pd

from components.errors import UserError

# A fold of the calibration images must leave two others to learn its standards from.
FEWEST = {"train": 1, "val": 1, "calib": 3}


def uniform(sha256: str) -> float:
    """The first 52 bits of a hash as a number in [0, 1)."""
    return int(sha256[:13], 16) / 16**13


def part_of(sha256: str, val_fraction: float, calib_fraction: float) -> str:
    """train, val or calib, by the hash of the file's bytes."""
    u = uniform(sha256)
    if u < val_fraction:
        return "val"
    return "calib" if u < val_fraction + calib_fraction else "train"


def assign_parts(manifest: pd.DataFrame, val_fraction: float, calib_fraction: float) -> pd.DataFrame:
    """Return the manifest with each image of train/good in part train, val or calib; test images stay test.

    Fractions in (0, 1), together below 1. Raises UserError when a part has fewer images than FEWEST (20 images at .1
    and .15: two sets in five lack calibration images; 60 images: one in two hundred lacks one of a part) and says how
    many more make that unlikely.
    """
    if not (val_fraction > 0 and calib_fraction > 0 and val_fraction + calib_fraction < 1):
        raise UserError(
            f"dataset.val_fraction {val_fraction:g} and calib_fraction {calib_fraction:g} must be above 0 "
            "and together below 1"
        )
    out = manifest.copy()
    learned = (out["part"] != "test") & (out["sha256"] != "")
    out.loc[learned, "part"] = [part_of(s, val_fraction, calib_fraction) for s in out.loc[learned, "sha256"]]
    share = {"val": val_fraction, "calib": calib_fraction, "train": 1 - val_fraction - calib_fraction}
    for part, fraction in share.items():
        there = int((out["part"] == part).sum())
        if there < FEWEST[part]:
            raise UserError(
                f"{there or 'none'} of the {int(learned.sum())} normal images falls into the '{part}' part (it is "
                f"chosen by each file's hash) and {FEWEST[part]} must; add about "
                f"{more_for(FEWEST[part] - there, fraction)} normal images"
            )
    return out


def judged(manifest: pd.DataFrame) -> pd.DataFrame:
    """What an evaluation scores: the test images, and where no normal one is among them the `val` part too, which
    stopped the training but set no threshold. Without it nothing would say how often a good part is refused."""
    test = manifest["part"] == "test"
    normal = (test & (manifest["label"] == 0)).any()
    return manifest[test if normal else test | (manifest["part"] == "val")]


def more_for(missing: int, fraction: float, doubt: float = 0.01) -> int:
    """Images to add until `missing` of them or more fall into a part of that `fraction`, but for a chance `doubt`."""
    from scipy.stats import binom  # a second to import, for a message

    count = missing
    while binom.cdf(missing - 1, count, fraction) > doubt:
        count += 1
    return count
