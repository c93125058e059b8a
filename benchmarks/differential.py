"""The differential mode: how far two normal parts differ, and whether a defect stands out against a golden reference.

    PYTHONPATH=. python benchmarks/differential.py [CATEGORY] [--references 1 3]

The references are the first images of the category's training part, the normal pairs the next twenty; the test images
are scored against the same references. Nothing is fitted: the threshold is `components.difference.THRESHOLD`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._trained import choose
from components.arrays import BATCH
from components.dataset.images import read_image, read_mask, resize_mask
from components.difference import THRESHOLD, Difference, Look, difference, look
from components.inspector import Inspector
from components.metrics import auroc
from components.settings import find_root

NORMAL = 20


def looks(inspector: Inspector, files: list[Path]) -> list[Look]:
    """The grids of image files."""
    images = [read_image(path, 100) for path in files]
    return [one for at in range(0, len(images), BATCH) for one in look(inspector, images[at : at + BATCH])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("category", nargs="?")
    parser.add_argument("--references", type=int, nargs="+", default=[1, 3])
    options = parser.parse_args()
    root = find_root()
    category = choose(root, options.category)
    data, inspector = root / "data" / category, Inspector.load(root / "artifacts" / category / "package")
    manifest = pd.read_csv(root / "artifacts" / category / "augment" / "manifest.csv", keep_default_na=False)
    most = max(options.references)
    train = [data / path for path in manifest[manifest.part == "train"].path[: most + NORMAL]]
    tests = manifest[manifest.part == "test"]
    known = looks(inspector, train)
    seen = looks(inspector, [data / path for path in tests.path])
    size, labels = inspector.image_size, tests.label.to_numpy().astype(bool)
    masks = [
        resize_mask(read_mask(data / row["mask"], row["height"], row["width"]), size)
        if row["mask"]
        else np.zeros((size, size), bool)
        for _, row in tests.iterrows()
    ]

    def compared(test: Look, references: list[Look]) -> Difference:
        vectors = inspector.detector.vqvae.codebook.vectors
        return difference(test, references, vectors, size, THRESHOLD, inspector.min_area)

    for count in options.references:
        normal = np.array([compared(one, known[:count]).score for one in known[most:]])
        found = [compared(one, known[:count]) for one in seen]
        scores = np.array([one.score for one in found])
        maps = np.stack([one.score_map for one in found])
        print(
            f"{category}, {count} reference{'s' * (count > 1)}: {len(normal)} normal training images score "
            f"{np.median(normal):.2f} (median) to {normal.max():.2f}; test images: image AUROC "
            f"{auroc(labels, scores):.3f}, pixel AUROC {auroc(np.stack(masks), maps):.3f}; above {THRESHOLD:g}: "
            f"{(scores[~labels] > THRESHOLD).sum()} of {(~labels).sum()} good, "
            f"{(scores[labels] > THRESHOLD).sum()} of {labels.sum()} defective"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
