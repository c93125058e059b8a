"""Reading images without losing what they hold, and refusing what is not one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from components.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Our own limit is checked before anything is decoded; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False


def read_image(path: Path, max_megapixels: float) -> np.ndarray:
    """Decode an image: (H, W, C) uint8 or uint16, C 1 (grey) or 3 (RGB).

    16-bit files keep 16 bits and one-channel files one channel. An opaque alpha channel is dropped; where
    it is not opaque the picture is laid over mid-grey, the one ground that is neither black nor white.
    Raises UserError for an empty, truncated, oversized, wrongly typed or unsupported file. The size is read
    from the header, so that a decompression bomb is never decoded.
    """
    _check_header(path, max_megapixels)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"{path} cannot be decoded; save it again as PNG or JPEG")
    if image.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} holds {image.dtype} values; save it with 8 or 16 bits per channel")
    if image.ndim == 2:
        return image[..., None]
    if image.shape[2] == 4:
        return _over_grey(image)
    if image.shape[2] == 3:
        return np.ascontiguousarray(image[..., ::-1])
    if image.shape[2] in (1, 2):
        return np.ascontiguousarray(image[..., :1])
    raise UserError(f"{path} has {image.shape[2]} channels; save it as grey, RGB or RGBA")


def _check_header(path: Path, max_megapixels: float) -> None:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); copy it again")
    try:
        with Image.open(path) as header:
            megapixels = header.width * header.height / 1e6
            if megapixels > max_megapixels:
                raise UserError(
                    f"{path} has {megapixels:.0f} megapixels, more than {max_megapixels:g}; make it smaller"
                )
            # OpenCV fills what is missing of a truncated file with grey and says nothing; Pillow complains.
            header.load()
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that can be read; remove it or save it as PNG or JPEG") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}); copy it again") from None


def _over_grey(image: np.ndarray) -> np.ndarray:
    colours, alpha = image[..., 2::-1], image[..., 3:]
    full = np.iinfo(image.dtype).max
    if (alpha == full).all():
        return np.ascontiguousarray(colours)
    share = alpha.astype(np.float64) / full
    return np.rint(colours * share + full / 2 * (1 - share)).astype(image.dtype)


def read_mask(path: Path, height: int, width: int) -> np.ndarray:
    """A mask file as bool (height, width): a defect where it is > 127 of 255.

    Raises UserError when it cannot be read or is not of its image's size.
    """
    mask = read_image(path, max_megapixels=height * width / 1e6 + 100)[..., 0]
    if mask.shape != (height, width):
        raise UserError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels but its image {width} x {height}; draw it again"
        )
    return mask > 127 * (257 if mask.dtype == np.uint16 else 1)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) to (size, size, C), same dtype: by area when it shrinks, linear when it grows."""
    shrinks = image.shape[0] >= size and image.shape[1] >= size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=how).reshape(size, size, -1)


def bits_used(image: np.ndarray) -> int:
    """How many bits its largest value needs, at least 8: a 12-bit camera's 16-bit file uses 12."""
    return max(8, int(image.max()).bit_length())
