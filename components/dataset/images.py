"""Reading one image or mask, and refusing what cannot be read with one line that says why.

OpenCV decodes (16 bits stay 16 bits); Pillow looks first, because it reads the size from the header without
decoding, and because it reports a truncated file that a decoder may fill up with grey and call an image.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from components.errors import UserError

Array = np.ndarray

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")
RECOGNISED = ("GIF", "ICO", "PSD", "ICNS", "DDS", "PCX")  # named in the refusal, never decoded
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm", ".pnm", ".jp2",
)  # fmt: skip
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"RIFF", b"\x00\x00\x00\x0cjP  ")
PNG_END = b"IEND\xaeB`\x82"
DEPTHS = (8, 10, 12, 14, 16)  # bits of the sensors that store their values in uint8 or uint16
MID_GREY = 0.5  # what shows through a transparent pixel of an image

# The size limit is ours, per call: Pillow's own would warn first and raise at another size.
Image.MAX_IMAGE_PIXELS = None
# What is wrong with a file is said once, in the UserError, and not by three libraries on stderr.
warnings.filterwarnings("ignore", module=r"PIL\..*")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image(path: Path, max_megapixels: float, behind: float = MID_GREY) -> Array:
    """Read one image as H x W x C, uint8 or uint16, C = 1 (grey) or 3 (RGB).

    A fully opaque alpha channel is dropped; any other is composited on the grey `behind` (0..1), so that what is
    hidden does not reach the model. The first page of a TIFF counts; EXIF rotation is not applied, because masks
    are drawn on the stored pixels. Raises UserError: missing, empty, not an image, unsupported, oversized
    (read from the header, before anything is decoded), truncated or damaged.
    """
    return decode(read_bytes(path), path, max_megapixels, behind)


def read_mask(path: Path, height: int, width: int, max_megapixels: float = 1000.0) -> Array:
    """Read a ground-truth mask as bool H x W: defective where the grey value is above 127; what is transparent is not.

    Raises UserError when it cannot be read, is not `height` x `width`, the size of its image, or has values and none
    above 127: numbers of classes, say, which would count as an empty mask and leave the defect out of every metric.
    """
    image = read_image(path, max_megapixels, behind=0.0)
    mask = binary(image)
    if mask.shape != (height, width):
        raise UserError(
            f"mask {path} is {mask.shape[1]}x{mask.shape[0]} but its image is {width}x{height}; "
            "export the mask at the image's size"
        )
    if image.any() and not mask.any():
        raise UserError(
            f"mask {path} has no value above {image.max()} of {np.iinfo(image.dtype).max}; "
            "export it with white where the defect is and black elsewhere"
        )
    return mask


def binary(image: Array) -> Array:
    """H x W x C grey or colour mask -> bool H x W: above 127 on the 0-255 scale, in any channel."""
    half = 127 if image.dtype == np.uint8 else 127 * 257
    return np.asarray((image > half).any(axis=2))


def read_bytes(path: Path) -> bytes:
    """Return the file's bytes; UserError when it is missing, cannot be opened or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None
    if not data:
        raise UserError(f"{path} is empty (0 bytes); copy it again")
    return data


def decode(data: bytes, path: Path, max_megapixels: float, behind: float = MID_GREY) -> Array:
    """Decode the bytes of an image file as `read_image` does; `path` only names it in messages."""
    _inspect(data, path, max_megapixels)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # most decoders return None; some raise
        pixels = None
    if pixels is None:
        raise UserError(f"{path} is truncated or damaged; copy it again")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} holds {pixels.dtype} pixels, which is unsupported; save it as 8- or 16-bit PNG")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    if pixels.shape[2] == 4:
        return _composite(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), behind)
    if pixels.shape[2] == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    raise UserError(f"{path} has {pixels.shape[2]} channels, which is unsupported; save it as grey or RGB PNG")


def _inspect(data: bytes, path: Path, max_megapixels: float) -> None:
    try:
        header = Image.open(io.BytesIO(data), formats=FORMATS + RECOGNISED)
    except UnidentifiedImageError:
        if data[:4] in (b"II*\x00", b"MM\x00*"):
            raise UserError(f"{path} is a truncated TIFF or an unsupported kind of one; save it as PNG") from None
        if data.startswith(SIGNATURES):
            raise UserError(f"{path} is truncated or damaged; copy it again") from None
        raise UserError(f"{path} is not an image; remove it or replace it by a PNG or JPEG") from None
    except Exception as error:  # Pillow's format readers raise whatever a broken header makes them raise
        raise UserError(f"{path} is truncated or damaged ({type(error).__name__}); copy it again") from None
    if header.format in RECOGNISED:  # not `not in FORMATS`: some cameras' JPEG calls itself MPO
        raise UserError(f"{path} is a {header.format} file, which is unsupported; save it as PNG or JPEG")
    width, height = header.size
    if width * height > max_megapixels * 1e6:
        raise UserError(
            f"{path} has {width}x{height} pixels, above the limit of {max_megapixels:g} megapixels; "
            "make it smaller or raise dataset.max_megapixels"
        )
    try:
        if header.format == "PNG":  # checksums of every chunk, without decoding
            header.verify()
            whole = PNG_END in data
        else:
            header.load()
            whole = True
    except Exception:  # as above: OSError, SyntaxError, struct.error, ...
        whole = False
    if not whole:
        raise UserError(f"{path} is truncated or damaged; copy it again")


def _composite(rgba: Array, behind: float) -> Array:
    full = float(np.iinfo(rgba.dtype).max)
    alpha = rgba[:, :, 3:]
    if (alpha == full).all():
        return np.ascontiguousarray(rgba[:, :, :3])
    share = alpha.astype(np.float32) / np.float32(full)
    mixed = rgba[:, :, :3].astype(np.float32) * share + np.float32(behind * full) * (1 - share)
    return np.asarray(np.rint(mixed)).clip(0, full).astype(rgba.dtype)


def bits_used(image: Array) -> int:
    """Return the smallest of 8, 10, 12, 14 or 16 bits that holds the image's largest value.

    A 12-bit camera writes uint16 files that use a sixteenth of the range. Take the maximum over a category
    before scaling by it: one dark image alone says little.
    """
    largest = int(image.max()) if image.size else 0
    return next(depth for depth in DEPTHS if largest < 1 << depth)


def resize(image: Array, size: int) -> Array:
    """H x W x C -> size x size x C of the same dtype: area averages where a side shrinks, linear where it grows.

    In two calls: asked to do both at once, OpenCV averages neither side, and a thin line on a long strip is lost.
    """
    height, width, channels = image.shape
    out = image
    if max(height, width) > size:
        out = cv2.resize(out, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    if min(height, width) < size:
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(out).reshape(size, size, channels)


def resize_mask(mask: Array, size: int) -> Array:
    """bool H x W -> bool size x size, nearest neighbour, so that a mask stays a mask."""
    out = cv2.resize(mask.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(out) > 0
