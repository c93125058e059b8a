"""What benchmarks/growth.py measures, small: more variants of the images take no more memory to make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from benchmarks import growth
from components import settings
from tests import tiny

# Peak resident memory of this process alone: ru_maxrss of a child begins with its parent's.
CHILD = """
import dataclasses, sys
from pathlib import Path
from components import augment, settings
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
wanted = settings.load(Path.cwd(), "brick")
wanted = dataclasses.replace(wanted, dataset=dataclasses.replace(wanted.dataset, size=256),
                             augment=dataclasses.replace(wanted.augment, images=int(sys.argv[1])))
before = peak()
augment.run(Path.cwd(), wanted)
print("grown", peak() - before)
"""


def test_the_stored_images_are_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    root = tiny.make(tmp_path / "plant")
    for number in range(360):
        cv2.imwrite(str(root / f"data/brick/train/good/more-{number:03}.png"), tiny.noise(50_000 + number))
    command = [sys.executable, "-P", "-c", CHILD, "800"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    written = (root / "artifacts/brick/augment/images-train.npy").stat().st_size / 2**20
    grown = float(done.stdout.split("grown")[1])
    assert written > 150 and grown < written / 2, (written, grown)


def test_the_benchmark_measures_a_step_and_tells_of_one_that_fails(tmp_path: Path) -> None:
    root = growth.workspace(tmp_path / "plant", 60, 32)
    assert settings.load(root, growth.CATEGORY).prior.steps == growth.SMALL["prior"]["steps"]
    cost = growth.measure(root, "import")
    assert len(list((root / "data/brick/train/good").iterdir())) == 60
    assert 20 < cost.anonymous < cost.rss and 0 < cost.cpu < 60
    with pytest.raises(RuntimeError, match=r"import: (.|\n)*is there already"):
        growth.measure(root, "import")
    found = {60: {"import": cost}, 600: {"import": growth.Cost(2 * cost.rss, cost.anonymous, 5 * cost.cpu)}}
    assert growth.table(found).splitlines()[-1].endswith("| 2.00 | 1.00 | 0.50 |")
    assert growth.per_image("train_vqvae", cost, 60) == pytest.approx(1000 * cost.cpu / (30 * growth.BATCH))
