"""Stage `augment`: the split, and every image decoded into arrays that are read piece by piece.

Policies of Wang et al. 2020, section 4.3.1: quarter turns and flips for textures and rotation-free objects,
a random rotation within +-10 degrees for the others, random crops for textures. Illumination jitter is ours:
lamps age, and a prior that has never seen that calls it a defect.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components import stage
from components.arrays import evenly, new_images, to_channels, unit
from components.dataset.images import read_image, read_mask, resize, resize_mask
from components.dataset.known_defects import PART, check_known, list_known
from components.dataset.manifest import build_manifest, check
from components.dataset.split import assign_parts, judged
from components.settings import Augment, Settings

DEEP = 10  # bits at least of a camera of more than 8: `white` above 255 says that a category is of such a one
PLAIN = 1000  # images kept as they are as well: what is measured on them is measured as it will be served
BLOCK = 64  # images in flight: bounds memory whatever the number of images, or of variants of each
FEWEST = 4  # in flight, for the threads to have work


def augmented(image: np.ndarray, config: Augment, size: int, rng: np.random.Generator, white: int) -> np.ndarray:
    """One random variant of `image` (H, W, C) of values 0..white: size x size x C, same dtype and full scale."""
    out = image
    if config.policy == "texture":
        height, width = image.shape[:2]
        share = rng.uniform(config.crop, 1.0)
        h, w = round(height * share), round(width * share)
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        out = out[top : top + h, left : left + w]
    out = resize(out, size)
    if config.policy == "object":
        turn = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), rng.uniform(-1, 1) * config.degrees, 1.0)
        out = cv2.warpAffine(out, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        out = out.reshape(size, size, -1)  # OpenCV drops a channel axis of one
    else:
        out = np.rot90(out, int(rng.integers(4)))
        if rng.integers(2):
            out = out[:, ::-1]
    gain = 1 + rng.uniform(-1, 1) * config.contrast
    shift = rng.uniform(-1, 1) * config.brightness * white
    jittered = (out.astype(np.float32) - out.mean()) * gain + out.mean() + shift
    return np.clip(np.rint(jittered), 0, white).astype(image.dtype)


def run(root: Path, settings: Settings) -> None:
    """Write manifest.csv, images-{train,plain,val,calib}.npy (N, S, S, C) and summary.json.

    `plain` are the images of train and val without augmentation, at most PLAIN of them, evenly drawn; those of train
    alone where an evaluation judges `val` for want of good test images.

    `white` in the summary is the value of full white (white_of). Where the category has known defects they are in the
    manifest too, and images-known.npy and masks-known.npy (N, S, S), empty where nobody has drawn a mask, hold them in
    its order. Raises UserError for what `check` and `check_known` find in the category.
    """
    source = root / "data" / settings.category
    config = settings.dataset
    manifest = build_manifest(source, max_megapixels=config.max_megapixels)
    check(manifest, config)
    known = list_known(source, config.max_megapixels)
    check_known(source, known, source, manifest, config.max_megapixels)
    manifest = assign_parts(manifest, config.val_fraction, config.calib_fraction)
    normals = manifest[(manifest.label == 0) & (manifest.part != "test")]
    channels = 1 if (normals.channels == 1).all() else 3
    white = white_of(normals)
    plain = ["train"] if "val" in set(judged(manifest).part) else ["train", "val"]
    out = stage.fresh_folder(root, settings.category, "augment")
    counts, dtype = {}, np.dtype(np.uint16 if white > 255 else np.uint8)
    for part in ("train", "plain", "val", "calib"):
        rows = normals[normals.part.isin(plain if part == "plain" else [part])]
        if part == "plain":
            rows = rows.iloc[evenly(len(rows), PLAIN)]
        rows = rows.reset_index(drop=True)
        copies = max(1, round(settings.augment.images / len(rows))) if part == "train" else 0
        count = len(rows) * max(copies, 1)
        shape = (count, config.size, config.size, channels)
        with new_images(out / f"images-{part}.npy", shape, dtype) as file:
            for variants in _decoded(source, rows, settings, channels, white, copies):
                file.write(np.ascontiguousarray(variants).data)
        counts[part] = count
        print(f"augment {part}: {count} images from {len(rows)}", flush=True)
    if len(known):
        images, masks = _read_known(source, known, settings, channels, white, dtype)
        np.save(out / f"images-{PART}.npy", images)
        np.save(out / f"masks-{PART}.npy", masks)
        manifest, counts[PART] = pd.concat([manifest, known], ignore_index=True), len(known)
    manifest.to_csv(out / "manifest.csv", index=False)
    summary = {
        "white": white,
        "channels": channels,
        "size": config.size,
        "policy": settings.augment.policy,
    }
    stage.write_json(out / "summary.json", summary | {f"images_{part}": n for part, n in counts.items()})


def _decoded(
    source: Path, rows: pd.DataFrame, settings: Settings, channels: int, white: int, copies: int
) -> Iterator[np.ndarray]:
    """Of each row in its turn the images (copies or 1, S, S, C)."""
    size = settings.dataset.size

    def one(index: int) -> np.ndarray:
        image = read_image(source / str(rows.path[index]), settings.dataset.max_megapixels)
        image = to_depth(to_channels(image, channels), white)
        if not copies:
            return resize(image, size)[None]
        # Seeded by the bytes' hash: an image's variants do not move when others join the folder.
        rng = np.random.default_rng([settings.seed, int(str(rows.sha256[index])[:8], 16)])
        variants = np.empty((copies, size, size, channels), image.dtype)
        for variant in variants:
            variant[...] = augmented(image, settings.augment, size, rng, white)
        return variants

    with ThreadPoolExecutor() as pool:
        indices = iter(range(len(rows)))
        while block := list(islice(indices, max(FEWEST, BLOCK // max(copies, 1)))):
            yield from pool.map(one, block)


def _read_known(
    source: Path, known: pd.DataFrame, settings: Settings, channels: int, white: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of the known defects, scaled as images are that are inspected: they set no white."""
    size, limit = settings.dataset.size, settings.dataset.max_megapixels
    images = np.zeros((len(known), size, size, channels), dtype)
    masks = np.zeros((len(known), size, size), bool)
    for at, (path, mask) in enumerate(zip(known.path, known["mask"], strict=True)):
        image = read_image(source / path, limit)
        images[at] = np.rint(unit(image, channels, white, size) * white).astype(dtype)
        if mask:
            masks[at] = resize_mask(read_mask(source / mask, *image.shape[:2]), size)
    return images, masks


def white_of(normals: pd.DataFrame) -> int:
    """Full white of a category, by the manifest's rows of its normal images: 255, or where a camera of more bits took
    some of them, the power of two that its images really use, minus one. One dark image alone says little of it, and
    files of 8 bits say nothing."""
    deep = normals[normals.bit_depth > 8]
    return 2 ** max(DEEP, int(deep.bits.max())) - 1 if len(deep) else 255


def to_depth(image: np.ndarray, white: int) -> np.ndarray:
    """An 8-bit image on the scale of a category whose `white` is above 255; any other as it is."""
    if white > 255 and image.dtype == np.uint8:
        return np.rint(image * (white / 255)).astype(np.uint16)
    return image
