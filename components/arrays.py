"""From stored images to tensors and back."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from components.dataset.images import resize

BATCH = 16  # images that the networks look at together


class Images:
    """Stored images (N, S, S, C), uint8 or uint16, of which an index or a slice reads its own.

    No memory map: its pages count as the process's memory once they were touched, and after one pass over the
    training images that is all of them.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")  # closed with the object
        major, _ = npy.read_magic(self._file)
        header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        self.shape, _, self.dtype = header(self._file)
        self._start = self._file.tell()

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, picks: slice | np.ndarray) -> np.ndarray:
        """The images at `picks`, as an array of their own (n, S, S, C)."""
        places = range(*picks.indices(len(self))) if isinstance(picks, slice) else [int(place) for place in picks]
        out = np.empty((len(places), *self.shape[1:]), self.dtype)
        size = out[:1].nbytes
        for at, place in enumerate(places):
            if not 0 <= place < len(self):
                raise IndexError(f"image {place} of {len(self)}")
            view = memoryview(out[at]).cast("B")
            read = os.preadv(self._file.fileno(), [view], self._start + place * size)
            if read != size:
                raise OSError(f"{self._file.name} ends early; run the stage augment again")
        return out


def evenly(count: int, most: int) -> np.ndarray:
    """`most` of the places 0..count-1, or all, evenly drawn from the first to the last: files lie by name, and names
    often by date."""
    drawn = min(count, most)
    return np.arange(drawn) * (count - 1) // max(drawn - 1, 1)


def open_images(folder: Path, part: str) -> Images:
    """The stored images of a part; nothing is read before it is indexed."""
    return Images(folder / f"images-{part}.npy")


@contextmanager
def new_images(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[BinaryIO]:
    """A file for `Images` of `shape`, open for their bytes, which are written in the images' order.

    ValueError when other than that many were written.
    """
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
        end = file.tell() + math.prod(shape) * dtype.itemsize
        yield file
        if file.tell() != end:
            raise ValueError(f"{path.name} holds {file.tell()} bytes where {end} were meant")


def to_tensor(images: np.ndarray, white: float, device: torch.device) -> Tensor:
    """(B, H, W, C) uint8 or uint16 to float32 (B, C, H, W) in [0, 1], channels last in memory: three to
    four times faster on CPUs than the default layout."""
    tensor = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2)
    return (tensor.float() / white).clamp_(0, 1).contiguous(memory_format=torch.channels_last)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, 1 or 3) to (H, W, channels): grey repeated to RGB, RGB to its luminance."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def unit(image: np.ndarray, channels: int, white: float, size: int) -> np.ndarray:
    """An image (H, W, 1 or 3) as it comes from a camera to float32 (size, size, channels) in [0, 1], in the
    same steps as the training images: resized first, then divided by full white.

    `white` is the category's for images of its own depth; an image of the other depth has its own.
    """
    resized = resize(to_channels(image, channels), size)
    full = 255.0 if image.dtype == np.uint8 else white if white > 255 else 65535.0
    return np.clip(resized.astype(np.float32) / np.float32(full), 0, 1)


def to_picture(image: Tensor) -> np.ndarray:
    """float (C, H, W) in [0, 1] to uint8 (H, W, 3), for people's eyes."""
    picture = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
