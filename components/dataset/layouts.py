"""How published data sets and plain folders are laid out, and their files' places in the canonical layout.

Each function copies from `source` into the new category folder `out` and returns what a person should know.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from components.dataset.images import SUFFIXES, binary, read_image
from components.dataset.manifest import MASK_ENDING, files_of
from components.dataset.split import uniform
from components.errors import UserError

TRAIN_LIST = "train_filenames.txt"
FREE = "MT_Free"
TRAIN_SHARE = 0.8  # of MT_Free, when there is no list
MASK_LIMIT = 1000.0  # megapixels; the mask's size is compared with its image's later


def mvtec(source: Path, out: Path, category: str) -> list[str]:
    """<category>/{train/good, test/<kind>, ground_truth/<kind>/<stem>_mask.png}: as it is."""
    base = locate(source, category, lambda folder: (folder / "train" / "good").is_dir(), "train/good")
    _copy(files_of(base / "train" / "good"), out / "train" / "good")
    for part in ("test", "ground_truth"):
        for kind in _folders(base / part):
            _copy(files_of(kind), out / part / kind.name)
    return []


def btad(source: Path, out: Path, category: str) -> list[str]:
    """<category>/{train/ok, test/ok, test/ko, ground_truth/ko/<stem>.png|bmp}; the kind of defect stays "ko"."""
    base = locate(source, category, lambda folder: (folder / "train" / "ok").is_dir(), "train/ok")
    _copy(files_of(base / "train" / "ok"), out / "train" / "good")
    _copy(files_of(base / "test" / "ok"), out / "test" / "good")
    _copy(files_of(base / "test" / "ko"), out / "test" / "ko")
    for mask in files_of(base / "ground_truth" / "ko"):
        _copy_as(mask, out / "ground_truth" / "ko" / mask_name(mask))
    return []


def magnetic_tile(source: Path, out: Path, train_list: Path | None) -> list[str]:
    """MT_Free and MT_<kind>, each with Imgs/NAME.jpg and its mask Imgs/NAME.png; see `import_magnetic_tile`."""
    base = locate(source, FREE, lambda folder: (folder / FREE).is_dir(), FREE)
    listed = train_list or (base / TRAIN_LIST if (base / TRAIN_LIST).is_file() else None)
    free = _tiles(base / FREE)
    chosen = _listed(listed, free) if listed else _hashed(free)
    for image in free:
        _copy_as(image, out / ("train" if image.name in chosen else "test") / "good" / image.name)
    said = [] if listed else [f"no {TRAIN_LIST}: {len(chosen)} of {len(free)} {FREE} images train, by their hash"]
    empty, bare = [], []
    for folder in _folders(base):
        if not folder.name.startswith("MT_") or folder.name == FREE:
            continue
        kind = folder.name.removeprefix("MT_").lower()
        for image in _tiles(folder):
            _copy_as(image, out / "test" / kind / image.name)
            if not image.with_suffix(".png").is_file():
                bare.append(image.name)
                continue
            mask = binary(read_image(image.with_suffix(".png"), MASK_LIMIT))
            target = out / "ground_truth" / kind / f"{image.stem}{MASK_ENDING}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())
            if not mask.any():
                empty.append(image.name)
    if empty:
        said.append(f"{len(empty)} masks are empty and count at image level only: {_some(empty)}")
    return said + ([f"{len(bare)} defective images have no mask: {_some(bare)}"] if bare else [])


def folder(source: Path, out: Path, defects: Path | None, masks: Path | None) -> list[str]:
    """A flat folder of normal images, and optionally folders of defective ones and masks; see `import_folder`."""
    if masks and not defects:
        raise UserError("masks without defective images; give their folder as well (--defects)")
    if (source / "train" / "good").is_dir():
        raise UserError(f"{source} is laid out like MVTec AD; import it with `import mvtec`")
    base = source
    while not _images(base) and len(_folders(base)) == 1:  # archives often hold one folder that holds the rest
        base = _folders(base)[0]
    normal = _images(base)
    if not normal:
        raise UserError(f"{source} holds no images; give the folder that the normal images are in")
    _copy(normal, out / "train" / "good")
    said = _skipped(base, normal)
    if defects is None:
        return said
    places = _place_defects(_unwrapped(defects), out / "test")
    if not places:
        raise UserError(f"{defects} holds no images; leave --defects out or give the folder that they are in")
    bare = _place_masks(masks, places, out / "ground_truth") if masks else []
    return said + ([f"{len(bare)} defective images have no mask: {_some(bare)}"] if bare else [])


def known(source: Path, images: Path, truth: Path, masks: Path | None) -> list[str]:
    """Known defects in folders of their kinds, or all of the kind "defect", and optionally masks; see `import_known`.

    Copies to `images` and `truth`.
    """
    places = _place_defects(_unwrapped(source), images)
    if not places:
        raise UserError(f"{source} holds no images; give the folder that the defective images are in")
    bare = _place_masks(masks, places, truth) if masks else [image.name for image in places]
    return [f"{len(bare)} known defects have no mask and count for whole images only: {_some(bare)}"] if bare else []


def count(category_dir: Path) -> dict[str, int]:
    """Images by folder, e.g. {"train/good": 209, "test/good": 20, "test/scratch": 9}."""
    folders = [category_dir / "train" / "good", *_folders(category_dir / "test")]
    folders += _folders(category_dir / "known" / "images")
    counts = {f.relative_to(category_dir).as_posix(): len(files_of(f)) for f in folders}
    return {name: number for name, number in counts.items() if number}


def locate(source: Path, name: str, fits: Callable[[Path], bool], wanted: str) -> Path:
    """The folder that has the layout: `source`, its subfolder `name`, or the only folder in it, and so down."""
    here = source
    while True:
        for base in (here, here / name):
            if fits(base):
                return base
        inside = _folders(here)
        if len(inside) != 1:
            break
        here = inside[0]
    others = sorted(f.name for f in _folders(here) if fits(f))
    hint = f"it holds {', '.join(others)}" if others else "check the path and the kind of data set"
    raise UserError(f"{source} holds no {wanted} for '{name}'; {hint}")


def mask_name(mask: Path) -> str:
    """The canonical name of a mask that is called like its image, or that already ends in _mask."""
    return f"{mask.stem.removesuffix(MASK_ENDING)}{MASK_ENDING}{mask.suffix}"


def _unwrapped(folder: Path) -> Path:
    """The folder of the kinds' folders: archives often hold one that holds the rest. One kind keeps its name."""
    base = folder
    while not _images(base) and len(_folders(base)) == 1 and not _images(_folders(base)[0]):
        base = _folders(base)[0]
    return base


def _place_defects(defects: Path, folder: Path) -> dict[Path, str]:
    """Copy defective images into folders of their kinds in `folder`, under stems unique there, as masks are found by
    stem; source -> kind/stem."""
    kinds = [("defect", _images(defects))]
    kinds += [(f.name, sorted(p for p in f.rglob("*") if p.is_file() and _is_image(p))) for f in _folders(defects)]
    places: dict[Path, str] = {}
    taken: set[str] = set()
    for kind, images in kinds:
        for image in images:
            stem, number = image.stem, 1
            while f"{kind}/{stem}".casefold() in taken:
                number += 1
                stem = f"{image.stem}-{number}"
            taken.add(f"{kind}/{stem}".casefold())
            places[image] = f"{kind}/{stem}"
            _copy_as(image, folder / kind / f"{stem}{image.suffix}")
    return places


def _place_masks(masks: Path, places: dict[Path, str], folder: Path) -> list[str]:
    """Copy each mask to its image's kind and stem in `folder`; return the images that have none."""
    found: dict[Path, list[Path]] = {}
    named: dict[str, list[Path]] = {}
    for image in places:
        named.setdefault(image.stem, []).append(image)
    for mask in sorted(p for p in masks.rglob("*") if p.is_file() and _is_image(p)):
        stem = mask.stem.removesuffix(MASK_ENDING)
        images = named.get(stem, [])
        same_kind = [i for i in images if places[i].split("/")[0] == mask.parent.name]
        images = same_kind or images
        if not images:
            raise UserError(f"mask {mask} has no image; remove it or add the image {stem}")
        if len(images) > 1:
            raise UserError(f"mask {mask} fits {images[0]} and {images[1]}; give the images different names")
        found.setdefault(images[0], []).append(mask)
    for image, theirs in found.items():
        if len(theirs) > 1:
            raise UserError(f"masks {theirs[0]} and {theirs[1]} are both for {image}; keep one")
        kind, stem = places[image].split("/", 1)
        _copy_as(theirs[0], folder / kind / f"{stem}{MASK_ENDING}{theirs[0].suffix}")
    return [i.name for i in places if i not in found and not places[i].startswith("good/")]


def _tiles(folder: Path) -> list[Path]:
    inner = folder / "Imgs" if (folder / "Imgs").is_dir() else folder
    return [p for p in files_of(inner) if p.suffix.lower() in (".jpg", ".jpeg")]


def _listed(names: Path, free: list[Path]) -> set[str]:
    try:
        lines = names.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{names} cannot be read as a list of file names; check the path") from None
    chosen = {line.strip().replace("\\", "/").rsplit("/", 1)[-1] for line in lines if line.strip()}
    missing = sorted(chosen - {image.name for image in free})
    if missing:
        raise UserError(f"{names} names {len(missing)} images that {FREE} lacks: {_some(missing)}")
    return chosen


def _hashed(free: list[Path]) -> set[str]:
    # Other digits of the hash than the train/val/calib split reads: the two draws must be independent.
    return {p.name for p in free if uniform(hashlib.sha256(p.read_bytes()).hexdigest()[13:]) < TRAIN_SHARE}


def _skipped(base: Path, taken: list[Path]) -> list[str]:
    images = set(taken)  # asked once for every file of the folder
    others = [p.name for p in files_of(base) if p not in images]
    inside = [f"{f.name}/" for f in _folders(base)]
    return [f"{len(others + inside)} left out, not images: {_some(others + inside)}"] if others or inside else []


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _images(folder: Path) -> list[Path]:
    return [p for p in files_of(folder) if _is_image(p)]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def _copy(files: list[Path], folder: Path) -> None:
    for file in files:
        _copy_as(file, folder / file.name)


def _copy_as(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
