"""Inspection of files by the model in production: a table, heat maps and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.dataset.images import SUFFIXES, read_image
from components.device import find_device
from components.errors import UserError
from components.evaluate.figures import display, outline, overlay
from components.inspector import BATCH, Inspection, Inspector
from flows import drift
from flows.adapters import registry, served, tracking

MAX_MEGAPIXELS = 100.0
COLUMNS = ("path", "score", "threshold", "verdict", "regions", "seconds", "error")


def champion(root: Path, category: str, device: str | None = None) -> tuple[Inspector, str]:
    """The serving model of a category, or the newest staged one where none serves yet, and its name.

    Raises UserError when there is neither.
    """
    client = tracking.connect(root)
    version = registry.resolve(client, category, None)
    folder = served.checked_package(client, version)
    return Inspector.load(folder, device or str(find_device())), f"{version.name}/{version.version}"


def inspect(root: Path, category: str, paths: Sequence[Path], out: Path, device: str | None = None) -> pd.DataFrame:
    """Inspect images and folders of images; write results.csv and, per image, PNGs at its own size.

    `<name>_heat.png` lays the score map over the picture, `<name>_mask.png` is white where a region is
    defective, `<name>_regions.png` outlines them. A file that cannot be read gets its reason in `error` and
    stops nothing. Returns the table of results.csv. Raises UserError when no image is found or no model is.
    """
    files = list(_images(paths))
    if not files:
        raise UserError(f"no images in {', '.join(map(str, paths))}; name a file or folder with {', '.join(SUFFIXES)}")
    inspector, model = champion(root, category, device)
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for at in range(0, len(files), BATCH) for row in _inspect_group(inspector, files[at : at + BATCH], out)]
    drift.append(root, category, pd.DataFrame(rows, columns=["path", "score", "least_likelihood"]).assign(model=model))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["model"] = model
    table.to_csv(out / "results.csv", index=False)
    return table


def _images(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.exists():
            yield path
        else:
            raise UserError(f"{path} does not exist")


def _inspect_group(inspector: Inspector, files: Sequence[Path], out: Path) -> Iterator[dict[str, object]]:
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
            yield {"path": str(path), "error": errors[path]}
            continue
        found = seen[path]
        _draw(inspector, images[path], found, _free_name(out, path))
        yield {
            "path": str(path),
            "score": found.score,
            "threshold": inspector.image_threshold,
            "verdict": "defective" if found.anomalous else "normal",
            "regions": cv2.connectedComponents(found.mask.astype(np.uint8), connectivity=8)[0] - 1,
            "seconds": found.seconds,
            "least_likelihood": float(found.likelihood.min()),
            "error": "",
        }


def _free_name(out: Path, path: Path) -> Path:
    """`out`/<stem>, with the folder's name before it where two files share a stem."""
    plain = out / path.stem
    return plain if not plain.with_name(f"{plain.name}_heat.png").exists() else out / f"{path.parent.name}-{path.stem}"


def _draw(inspector: Inspector, image: np.ndarray, found: Inspection, base: Path) -> None:
    height, width = image.shape[:2]
    picture = display(image, (width, height))
    score_map = cv2.resize(found.score_map, (width, height), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(found.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    for name, drawn in (
        ("heat", overlay(inspector, picture, score_map)[..., ::-1]),
        ("mask", mask.astype(np.uint8) * 255),
        ("regions", outline(picture, mask)[..., ::-1]),
    ):
        cv2.imwrite(str(base.with_name(f"{base.name}_{name}.png")), drawn)
