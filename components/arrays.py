"""From stored images to tensors and back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from components.dataset.images import resize


def open_images(folder: Path, part: str) -> np.ndarray:
    """The memory-mapped array (N, S, S, C) of a part; nothing is read before it is indexed."""
    return np.load(folder / f"images-{part}.npy", mmap_mode="r")


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
