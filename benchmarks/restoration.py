"""Restoration: the fixed point against the naive raster loop, on the same images, codes compared one by one.

    PYTHONPATH=. python benchmarks/restoration.py [CATEGORY] [--images 8]

Needs a trained category (default: bottle, or brick where that was never trained). Prints passes of the prior
and seconds for both, per image and in all, and the ratio; exits 1 if a single code differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from benchmarks._trained import choose as trained
from components.arrays import unit
from components.dataset.images import read_image
from components.inspector import Inspector
from components.restore import restore
from components.settings import find_root
from tests.unit.reference import restore_naively


def pictures(root: Path, category: str, count: int) -> list[str]:
    """`count` test images, taken in turn from every defect type and the good ones."""
    manifest = pd.read_csv(root / "artifacts" / category / "augment" / "manifest.csv", keep_default_na=False)
    test = manifest[manifest.part == "test"]
    place = test.groupby("defect").cumcount()
    return test.assign(place=place).sort_values(["place", "defect"]).path.head(count).tolist()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("category", nargs="?")
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    root = find_root()
    category = trained(root, options.category)
    inspector = Inspector.load(root / "artifacts" / category / "package")
    prior, eta = inspector.detector.prior, inspector.calibration["eta"]
    rule = inspector.calibration["neighbour_rule"]
    rows, differing = [], 0
    for name in pictures(root, category, options.images):
        image = read_image(root / "data" / category / name, 100)
        x = torch.from_numpy(unit(image, inspector.channels, inspector.calibration["white"], inspector.image_size))
        with torch.no_grad():
            codes = inspector.detector.vqvae.encode(x[None].permute(0, 3, 1, 2))
        coarse = inspector.detector.vqvae.coarse(codes)
        started = time.perf_counter()
        fast = restore(prior, codes, eta, rule, coarse=coarse)
        middle = time.perf_counter()
        slow = restore_naively(prior, codes, eta, rule, every_position=True, coarse=coarse)
        ended = time.perf_counter()
        differing += int((fast.codes != slow).sum())
        rows.append({
            "image": name, "replaced": int((fast.codes != codes).sum()),
            "passes": fast.passes, "seconds": round(middle - started, 3),
            "naive_passes": codes[0].numel() + 1, "naive_seconds": round(ended - middle, 2),
            "ratio": round((ended - middle) / (middle - started), 1),
        })  # fmt: skip
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    fast_seconds, slow_seconds = table.seconds.sum(), table.naive_seconds.sum()
    print(table.to_string(index=False))
    print(
        f"{category}, eta {eta}, {torch.get_num_threads()} threads: {fast_seconds:.2f} s against {slow_seconds:.1f} s "
        f"(1/{slow_seconds / fast_seconds:.0f}), {differing} codes differ"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
