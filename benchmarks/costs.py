"""Unit costs behind docs/scale.md: seconds and megabytes per image, rows and megabytes per run.

    PYTHONPATH=. python benchmarks/costs.py [IMAGES] [SIDE]        default 200 images of 900 x 900 pixels

Import reads, checks and copies; judging is an ingest without the champion's look; augment is the stage at its default
size. A run's rows are counted in MLflow's and Prefect's own databases after publishing a fabricated category and after
running ten stages that do nothing.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from ruamel.yaml import YAML

from components import settings
from components.augment import run as augment
from components.dataset.importers import import_folder
from flows import judge
from flows.adapters import versioning
from flows.publish import publish
from tests.artifacts_fixture import Fabricator, make_workspace
from tests.toy import make as make_toy


def pictures(folder: Path, count: int, side: int) -> float:
    """Write smooth random pictures as PNG; megabytes per image."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(count):
        small = noise.normal(128, 30, (side // 8, side // 8, 3))
        image = cv2.resize(small, (side, side)) + noise.normal(0, 2, (side, side, 3))
        cv2.imwrite(str(folder / f"{number:05}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return sum(path.stat().st_size for path in folder.iterdir()) / count / 1e6


def size(folder: Path) -> float:
    """Megabytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def rows(database: Path) -> int:
    """Rows of all tables of a sqlite database."""
    with sqlite3.connect(database) as opened:
        names = [name for (name,) in opened.execute("select name from sqlite_master where type = 'table'")]
        return sum(opened.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names)


def of_images(root: Path, count: int, side: int) -> None:
    """Import, version and augment `count` pictures."""
    megabytes = pictures(root / "given", count, side)
    print(f"an image of {side} x {side}: {megabytes:.2f} MB as PNG")
    params = YAML().load((root / "params.yaml").read_text())
    params["overrides"]["brick"] = {name: {} for name in settings.SECTIONS}
    params["overrides"]["brick"]["augment"] = {"policy": "object", "images": count}
    YAML().dump(params, root / "params.yaml")
    started = time.perf_counter()
    import_folder(root / "given", root / "data", "brick", settings.load_dataset(root))
    print(f"import: {(time.perf_counter() - started) / count * 1000:.0f} ms per image")
    started = time.perf_counter()
    versioning.add_data(root)
    print(f"dvc add: {(time.perf_counter() - started) / count * 1000:.1f} ms per image, start included")
    started = time.perf_counter()
    augment(root, settings.load(root, "brick"))
    seconds = time.perf_counter() - started
    print(f"augment: {seconds / count * 1000:.0f} ms and {size(root / 'artifacts') / count:.2f} MB per image")


def of_a_publication(root: Path) -> None:
    """Publish twice and count what the second added."""
    make_workspace(root)
    fabricate = Fabricator(root)
    fabricate()
    judge.latencies = lambda packages, root, category: [0.1] * len(packages)  # fabricated models cannot be timed
    publish(root, "brick")
    before, kept = rows(root / "mlflow.db"), size(root / "mlartifacts")
    fabricate(seed=3)
    started = time.perf_counter()
    publish(root, "brick")
    print(f"publication: {time.perf_counter() - started:.1f} s, {rows(root / 'mlflow.db') - before} rows in MLflow's "
          f"database, {size(root / 'mlartifacts') - kept:.1f} MB of files without the model")  # fmt: skip


def of_a_run(folder: Path) -> None:
    """Run stages that do nothing and count what Prefect keeps."""
    folder.mkdir()
    toy = make_toy(folder)
    code = (
        "import flows.publish\nfrom types import SimpleNamespace as S\nfrom pathlib import Path\n"
        "flows.publish.publish = lambda *a, **k: S(status='promoted', message='', version='1', new=True)\n"
        "from flows.run import run\nrun(Path.cwd(), ['bolt'])"
    )
    database = toy.root / ".kintsugi/prefect/prefect.db"
    counts = []
    for change in ("first", "second"):
        toy.image("bolt", change)
        subprocess.run([sys.executable, "-P", "-c", code], cwd=toy.root, check=True, capture_output=True)
        counts.append(rows(database))
    print(f"run of 3 stages and a publication: {counts[1] - counts[0]} rows in Prefect's database")


def main(count: int, side: int) -> int:
    """Print every cost."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as scratch:
        root = make_workspace(Path(scratch) / "images")
        (root / ".dvc" / "tmp").mkdir()
        of_images(root, count, side)
        os.chdir(scratch)
        of_a_publication(Path(scratch) / "plant")
        of_a_run(Path(scratch) / "toy")
    return 0


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [200, 900][len(numbers) :])))
