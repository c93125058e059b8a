"""A category of textures, images of every bad kind, and quick stand-ins for what is slow around an ingest."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from flows import fixity, plant
from flows import ingest as ingests
from flows.adapters import versioning
from flows.ingest import files
from flows.ingest.judge import Scorer
from tests.artifacts_fixture import REPO, make_workspace

SIDE = 96
DEFECT = 235  # brighter than any texture


def texture(seed: int, side: int = SIDE) -> np.ndarray:
    """A normal image: smooth noise, uint8 side x side x 3, of one brightness and sharpness for all seeds."""
    noise = np.random.default_rng(seed).normal(size=(side, side))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    grey = np.clip(128 + 25 * (smooth - smooth.mean()) / smooth.std(), 0, 220).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def defective(seed: int) -> np.ndarray:
    """A texture with a bright spot beside a dark one, both soft: mean and sharpness stay in range."""
    image = texture(seed).astype(np.float32)
    y, x = np.mgrid[:SIDE, :SIDE]
    for centre, value in ((30, DEFECT), (60, 21)):
        share = np.exp(-((x - centre) ** 2 + (y - centre) ** 2) / (2 * 5.0**2))[:, :, None]
        image = image * (1 - share) + value * share
    return image.round().astype(np.uint8)


def save(path: Path, image: np.ndarray, *options: int) -> Path:
    """Write an image, as old as if it had been there for a minute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(path.suffix, image, options)
    assert encoded
    path.write_bytes(data.tobytes())
    return settled(path)


def settled(path: Path) -> Path:
    """Make a file look as if no one were writing it any more."""
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def make_plant(root: Path, normals: int = 24, tested: int = 4, **ingest: Any) -> Path:
    """A workspace whose category `brick` has textures, none of it versioned yet; `ingest` changes settings."""
    make_workspace(root)
    for i in range(normals):
        save(root / "data/brick/train/good" / f"{i:03}.png", texture(i))
    for i in range(tested):
        save(root / "data/brick/test/good" / f"{i:03}.png", texture(1000 + i))
    yaml = YAML()
    content = yaml.load((root / plant.FILE).read_text())
    content["ingest"].update(ingest)
    yaml.dump(content, root / plant.FILE)
    return root


def land_good(root: Path, count: int, start: int = 2000) -> list[Path]:
    """Let normal images land."""
    return [save(root / "landing/brick" / f"n{i:03}.png", texture(start + i)) for i in range(count)]


def land_bad(root: Path) -> dict[str, tuple[str, str]]:
    """Let twenty bad images land, one of each kind; returns name -> (its fate, a part of its reason)."""
    landing, data = root / "landing/brick", root / "data/brick"
    landing.mkdir(parents=True, exist_ok=True)
    whole = cv2.imencode(".png", texture(3000))[1].tobytes()
    train, test = data / "train/good/003.png", data / "test/good/001.png"
    raw: dict[str, tuple[bytes, str, str]] = {
        "empty.png": (b"", "quarantined", "empty"),
        "truncated.png": (whole[: len(whole) // 2], "quarantined", "truncated or damaged"),
        "text.png": (b"these are no pixels", "quarantined", "not an image"),
        "notes.txt": (b"shift 3, line 2", "quarantined", "not an image"),
        "moving.gif": (b"GIF89a" + bytes(64), "quarantined", "not an image"),
        "bad:name.png": (cv2.imencode(".png", texture(3001))[1].tobytes(), "quarantined", "name"),
        "000_mask.png": (cv2.imencode(".png", texture(3002))[1].tobytes(), "quarantined", "mask"),
        "again-train.png": (train.read_bytes(), "duplicates", "brick/train/good/003.png"),
        "again-test.png": (test.read_bytes(), "duplicates", "brick/test/good/001.png"),
        "z-twice.png": ((landing / "n000.png").read_bytes(), "duplicates", "n000.png"),
    }
    pixels: dict[str, tuple[np.ndarray, str, str]] = {
        "small.png": (texture(3003, 48), "quarantined", "width"),
        "grey.png": (texture(3004)[:, :, 0], "quarantined", "channels"),
        "deep.png": (texture(3005).astype(np.uint16) * 257, "quarantined", "bit_depth"),
        "black.png": (np.zeros((SIDE, SIDE, 3), np.uint8), "quarantined", "brightness"),
        "white.png": (np.full((SIDE, SIDE, 3), 255, np.uint8), "quarantined", "brightness"),
        "overexposed.png": (cv2.add(texture(3006), (70, 70, 70, 0)), "quarantined", "brightness"),
        "blurred.png": (cv2.GaussianBlur(texture(3007), (0, 0), 4), "quarantined", "sharpness"),
        "resaved.jpg": (cv2.imread(str(train)), "quarantined", "nearly the same picture as brick/train/good/003.png"),
        "scratched.png": (defective(3008), "held", "looks defective"),
        "chipped.png": (defective(3009), "held", "looks defective"),
    }
    for name, (data_, _, _) in raw.items():
        (landing / name).write_bytes(data_)
        settled(landing / name)
    for name, (image, _, _) in pixels.items():
        save(landing / name, image)
    return {name: (fate, reason) for name, (_, fate, reason) in (raw | pixels).items()}


def champion(root: Path, category: str) -> Scorer:
    """A stand-in for the champion: the brightest pixel is the score."""
    return Scorer(f"production.{category}/1", 225.0, lambda images: [float(image.max()) for image in images])


@dataclass(frozen=True)
class Light:
    """A report as the validation's."""

    failures: list[tuple[str, str]]


def validator(manifest: pd.DataFrame, dataset: Any, docs: Path | None, ranges: Mapping[str, Sequence[float]]) -> Light:
    """The ranges without Great Expectations, which takes ten seconds to import."""
    failures = [(path, error) for path, error in zip(manifest["path"], manifest["error"], strict=True) if error]
    for column, (low, high) in ranges.items():
        out = (manifest["error"] == "") & ((manifest[column] < low) | (manifest[column] > high))
        failures += [(path, f"{column} out of range") for path in manifest["path"][out]]
    return Light(failures)


def quick_dvc(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Version data as DVC does, without the second that starting it takes."""

    def add(root: Path) -> str:
        md5 = fixity.listing_md5(fixity.listing(root / "data"))
        scratch = root / ".kintsugi" / "data.dvc"
        YAML().dump({"outs": [{"md5": md5, "hash": "md5", "path": "data"}]}, scratch)
        shutil.move(scratch, root / "data.dvc")
        return md5

    set_attribute(versioning, "add_data", add)
    set_attribute(versioning, "push", lambda root: None)


def ingest(root: Path) -> ingests.IngestReport:
    """An ingest with the stand-ins."""
    return ingests.ingest(root, "brick", scorer=champion, validator=validator)


def die(moment: str) -> None:
    """Ingest the workspace of the current folder, and die by SIGKILL at `moment`.

    A moment is a step's name, or `move N` and `json N`: in the N-th move or atomic write, before its rename.
    """

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    quick_dvc(setattr)
    kind, _, number = moment.partition(" ")
    if kind in ("move", "json") and number.isdecimal():
        name = {"move": "move", "json": "write_json"}[kind]
        real, calls = getattr(files, name), [0]

        def counted(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == int(number):
                if kind == "move":
                    kill()
                os.replace = kill
            return real(*arguments)

        setattr(files, name, counted)
    else:
        ingests.reached = lambda step: kill() if step == moment else None
    ingest(Path.cwd())


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    die(sys.argv[1])
