"""Images that are not what they say: bent files of every kind that the reader knows or must refuse."""

from __future__ import annotations

import functools
import io
import random
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from components.dataset.images import read_image, read_mask
from tests.fuzz.bend import bent

MEGAPIXELS = 1.0  # the limit; a bent header asks for more now and then


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Small valid files."""
    noise = np.random.default_rng(0)
    colour = noise.integers(0, 255, (9, 7, 3), dtype=np.uint8)
    deep = noise.integers(0, 65535, (9, 7), dtype=np.uint16)
    alpha = noise.integers(0, 255, (9, 7, 4), dtype=np.uint8)
    found = [cv2.imencode(end, colour)[1].tobytes() for end in (".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm")]
    found += [cv2.imencode(end, deep)[1].tobytes() for end in (".png", ".tif")]
    found.append(cv2.imencode(".png", alpha)[1].tobytes())
    found += [
        cv2.imencode(".pgm", deep)[1].tobytes(),
        b"P1 3 2 1 0 1 0 1 0",
        b"P4 9 2\n\x55\x80\xaa\x00",
        b"P2\n2 1\n255\n0 9\n",
    ]
    found += [jpeg2000(colour, bare=False), jpeg2000(colour, bare=True), jpeg2000(deep, bare=False)]
    for kind in ("GIF", "ICO", "TGA", "PNG", "JPEG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(colour).convert("P" if kind == "GIF" else "RGB").save(buffer, kind)
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, "TIFF", compression="tiff_lzw")
    found.append(buffer.getvalue())
    found += [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"\xff\xd8\xff",
        b"II*\x00",
        b"RIFF0000WEBP",
        b"%PDF-1.7",
        b"\x00" * 64,
    ]
    return tuple(found)


def jpeg2000(image: np.ndarray, bare: bool) -> bytes:
    """A file in its container, or the bare codestream; of one resolution, as the image is too small for more."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG2000", no_jp2=bare, num_resolutions=1)
    return buffer.getvalue()


def case(draw: random.Random, folder: Path) -> None:
    """Read one bent file, sometimes as a mask."""
    data = bent(draw.choice(seeds()), draw)
    if draw.random() < 0.1:  # two files in one: what one reader skips, another reads
        data += bent(draw.choice(seeds()), draw)
    path = folder / ("x" + draw.choice([".png", ".jpg", ".tif", ".bmp", ".webp", ".ppm", ".jp2", ""]))
    path.write_bytes(data)
    if draw.random() < 0.2:
        mask = read_mask(path, 9, 7, MEGAPIXELS)
        assert mask.shape == (9, 7) and mask.dtype == bool
        return
    image = read_image(path, MEGAPIXELS)
    assert image.dtype in (np.uint8, np.uint16) and image.ndim == 3 and image.shape[2] in (1, 3), image.shape
    assert 0 < image.shape[0] * image.shape[1] <= MEGAPIXELS * 1e6
