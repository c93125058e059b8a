"""Inspection of files by the model in production: a table, heat maps and masks."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.arrays import BATCH
from components.dataset.images import SUFFIXES, read_image
from components.device import find_device
from components.errors import UserError
from components.evaluate.figures import display, outline, overlay
from components.inspector import Inspection, Inspector
from flows import drift
from flows.adapters import registry, served, tracking

MAX_MEGAPIXELS = 100.0
TABLE = "results.csv"
COLUMNS = ("path", "score", "threshold", "verdict", "regions", "seconds", "picture", "error")
PICTURES = ("heat", "mask", "regions")


def champion(root: Path, category: str, device: str | None = None) -> tuple[Inspector, str]:
    """The serving model of a category, or the newest staged one where none serves yet, and its name.

    Raises UserError when there is neither.
    """
    client = tracking.connect(root)
    version = registry.resolve(client, category, None)
    folder = served.checked_package(client, version)
    return Inspector.load(folder, device or str(find_device())), f"{version.name}/{version.version}"


def inspect(
    root: Path, category: str, paths: Sequence[Path], out: Path, device: str | None = None, log: bool = True
) -> pd.DataFrame:
    """Inspect images and folders of images; write results.csv and, per image, PNGs at its own size.

    `<name>_heat.png` lays the score map over the picture, `<name>_mask.png` is white where a region is
    defective, `<name>_regions.png` outlines them; the column `picture` names the first, as <name> differs from the
    image's where two share it. The pictures that an earlier results.csv in `out` names are removed, nothing else is.
    A file that cannot be read gets its reason in `error` and stops nothing. `log` puts the scores into the log that
    drift is judged by, where only what comes off the line as it comes belongs. Returns the table of results.csv.
    Raises UserError when no image is found or no model is.
    """
    files = list(_images(paths))
    if not files:
        raise UserError(f"no images in {', '.join(map(str, paths))}; name a file or folder with {', '.join(SUFFIXES)}")
    inspector, model = champion(root, category, device)
    out.mkdir(parents=True, exist_ok=True)
    _remove_earlier(out)
    files = [path for path in files if path.exists()]  # `out` may be a folder that is inspected
    names = _Names(out)
    groups = (files[at : at + BATCH] for at in range(0, len(files), BATCH))
    rows = [row for group in groups for row in _inspect_group(inspector, group, names)]
    if log:
        scores = pd.DataFrame(rows, columns=["path", "score", "least_likelihood"])
        drift.append(root, category, scores.assign(model=model))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["model"] = model
    table.to_csv(out / TABLE, index=False)
    return table


def _images(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.exists():
            yield path
        else:
            raise UserError(f"{path} does not exist")


def _inspect_group(inspector: Inspector, files: Sequence[Path], names: _Names) -> Iterator[dict[str, object]]:
    images: dict[Path, np.ndarray] = {}
    errors: dict[Path, str] = {}
    for path in files:
        try:
            images[path] = read_image(path, MAX_MEGAPIXELS)
        except UserError as error:
            errors[path] = str(error)
    seen = dict(zip(images, inspector.inspect(list(images.values())), strict=True))
    for path in files:
        if path in errors:
            yield {"path": str(path), "picture": "", "error": errors[path]}
            continue
        found = seen[path]
        base = names.of(path)
        _draw(inspector, images[path], found, base)
        yield {
            "path": str(path),
            "score": found.score,
            "threshold": inspector.image_threshold,
            "verdict": "defective" if found.anomalous else "normal",
            "regions": cv2.connectedComponents(found.mask.astype(np.uint8), connectivity=8)[0] - 1,
            "seconds": found.seconds,
            "least_likelihood": float(found.likelihood.min()),
            "picture": _picture(base, PICTURES[0]).name,
            "error": "",
        }


def _remove_earlier(out: Path) -> None:
    """Take away the table of an earlier inspection and its pictures: beside new scores they would pass for theirs."""
    table = out / TABLE
    if not table.is_file():
        return
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        named = [row.get("picture") or "" for row in csv.DictReader(file)]
    for heat in named:
        stem = Path(heat).name.removesuffix(f"_{PICTURES[0]}.png")
        if heat == f"{stem}_{PICTURES[0]}.png":  # and not a path to somewhere else
            for kind in PICTURES:
                _picture(out / stem, kind).unlink(missing_ok=True)
    table.unlink()


@dataclass
class _Names:
    """Gives each image of one inspection a name in `out` that no other has, and that no file there has already."""

    out: Path
    given: set[str] = field(default_factory=set)

    def of(self, path: Path) -> Path:
        """`out`/<stem>, where that is taken with the folder's name before it, else with a number after it."""
        numbered = (f"{path.stem}-{number}" for number in itertools.count(2))
        names = itertools.chain((path.stem, f"{path.resolve().parent.name}-{path.stem}"), numbered)
        name = next(name for name in names if self._free(name))
        self.given.add(name)
        return self.out / name

    def _free(self, name: str) -> bool:
        return name not in self.given and not any(_picture(self.out / name, kind).exists() for kind in PICTURES)


def _picture(base: Path, kind: str) -> Path:
    return base.with_name(f"{base.name}_{kind}.png")


def _draw(inspector: Inspector, image: np.ndarray, found: Inspection, base: Path) -> None:
    height, width = image.shape[:2]
    picture = display(image, (width, height))
    score_map = cv2.resize(found.score_map, (width, height), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(found.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    drawn = (
        overlay(inspector, picture, score_map)[..., ::-1],
        mask.astype(np.uint8) * 255,
        outline(picture, mask)[..., ::-1],
    )
    for kind, pixels in zip(PICTURES, drawn, strict=True):
        # Not `cv2.imwrite`, which says False and nothing more where it cannot write.
        _picture(base, kind).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
