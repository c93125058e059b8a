"""Inference: the packaged model's milliseconds per image, one at a time and in batches.

    PYTHONPATH=. python benchmarks/inference.py [CATEGORY] [--peers feature_baselines.py --data DATA_ROOT]

With --peers the given script (PaDiM and PatchCore on the same images) runs in the same sitting and the
ratios are printed. Times are of `Inspector.inspect` on decoded images: resizing, both models, restoration,
the score map and the regions; pictures are drawn when somebody asks for them, and nobody does here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch

from benchmarks._trained import choose as trained
from components.arrays import BATCH
from components.dataset.images import read_image
from components.inspector import Inspector
from components.settings import find_root

WARM_UP = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("category", nargs="?")
    parser.add_argument("--peers")
    parser.add_argument("--data")
    options = parser.parse_args()
    root = find_root()
    category = trained(root, options.category)
    folder = root / "artifacts" / category
    inspector = Inspector.load(folder / "package")
    manifest = pd.read_csv(folder / "augment" / "manifest.csv", keep_default_na=False)
    test = manifest[manifest.part == "test"]
    images = [read_image(root / "data" / category / path, 100) for path in test.path]
    for image in images[:WARM_UP]:
        inspector.inspect([image])
    single = []
    for image in images:
        started = time.perf_counter()
        inspector.inspect([image])
        single.append((time.perf_counter() - started) * 1e3)
    started = time.perf_counter()
    inspector.inspect(images)
    batch = (time.perf_counter() - started) * 1e3 / len(images)
    times, good = np.array(single), (test.label == 0).to_numpy()
    print(
        f"{category}: {len(images)} images, {torch.get_num_threads()} threads, "
        f"score {inspector.calibration['score']}: "
        f"single {times.mean():.1f} ms (median {np.median(times):.1f}, good parts {times[good].mean():.1f}, "
        f"worst {times.max():.1f}), batches of {BATCH} {batch:.1f} ms per image"
    )
    if options.peers:
        said = subprocess.run([sys.executable, options.peers, options.data, category, "--json"],
                              check=True, capture_output=True, text=True).stdout  # fmt: skip
        for line in said.splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                peer = row["inference_ms_per_image"]
                print(f"{row['method']}: {peer} ms per image; ours / theirs {batch / peer:.2f}  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
