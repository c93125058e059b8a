"""From a request to images: raw bytes, multipart or JSON, refused with one line before anything large is made."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException

from components.arrays import to_channels
from components.dataset.images import FORMATS, decode, resize
from components.errors import UserError
from components.inspector import Inspector
from flows.serving.answers import ImageIn, ImagesIn, PairIn
from flows.serving.limits import Limits

# The parser warns of every malformed form, which would let anybody fill the log; the sender is told.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

MULTIPART, JSON = "multipart/form-data", "application/json"
LONGEST_NAME = 200  # characters
REFERENCE = "reference"  # the multipart field of golden references

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Upload:
    """One image file as it came."""

    name: str
    content: bytes
    field: str = "image"


async def uploads(request: Request, limits: Limits, model: type[BaseModel], name: str = "upload") -> list[Upload]:
    """The files of a request, at least one; 400, 413 or 422 with one line otherwise."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == MULTIPART:
        found = await _parts(request, limits)
    elif kind == JSON:
        found = _images(await run_in_threadpool(parse, model, await request.body()))
    else:  # curl calls a file a form unless it is told otherwise, so no other type is trusted either
        found = [Upload(clean(name), await request.body())]
    if not any(one.content for one in found):
        raise HTTPException(422, "the request holds no image; send a file, a multipart form or JSON (see /docs)")
    if len(found) > limits.images:
        raise HTTPException(413, f"{len(found)} images at once; send at most {limits.images}")
    return found


async def _parts(request: Request, limits: Limits) -> list[Upload]:
    try:
        async with request.form(max_files=limits.images + 1, max_fields=8, max_part_size=1024) as form:
            return [
                Upload(clean(value.filename or "upload"), await value.read(), field)
                for field, value in form.multi_items()
                if isinstance(value, UploadFile)
            ]
    except StarletteHTTPException as refused:
        if str(refused.detail).startswith("Too many files"):
            raise HTTPException(413, f"more than {limits.images} images at once; send fewer") from None
        raise
    except (ValueError, LookupError, AttributeError):  # what the parser makes of headers that make no sense
        raise HTTPException(400, "the multipart form is malformed") from None


def parse(model: type[M], body: bytes) -> M:
    """JSON to a model; 422 names the first thing that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, told(error.errors(include_url=False, include_input=False))) from None


def told(errors: Sequence[object]) -> str:
    """The first of pydantic's errors as one line."""
    first = errors[0] if errors else {}
    assert isinstance(first, dict)
    place = ".".join(str(part) for part in first.get("loc", ()))
    message = str(first.get("msg", "not understood")).removeprefix("Value error, ")
    return clean(f"{place}: {message}" if place else message)


def _images(body: BaseModel) -> list[Upload]:
    if isinstance(body, ImageIn):
        return [Upload(clean(body.name), body.content)]
    if isinstance(body, ImagesIn):
        return [Upload(clean(one.name), one.content) for one in body.images]
    assert isinstance(body, PairIn)
    return [
        Upload(clean(body.image.name), body.image.content),
        *(Upload(clean(one.name), one.content, REFERENCE) for one in body.references),
    ]


def clean(text: str) -> str:
    """A name or message that fits a log, a table and a page: one line, printable, not endless."""
    shown = text.encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", shown).strip()[:LONGEST_NAME] or "upload"


class TooLargeError(UserError):
    """An image has more pixels than the server takes."""


def read(upload: Upload, inspector: Inspector, limits: Limits) -> np.ndarray:
    """Decode an upload and bring it to the model's size at once: what waits must be small.

    The steps are the first ones of `components.arrays.unit`, so the model sees what it would have seen of the
    whole image. Raises UserError; an image with too many pixels is refused before it is decoded.
    """
    width, height = stated_size(upload.content)
    if width * height > limits.megapixels * 1e6:
        raise TooLargeError(
            f"{upload.name} has {width}x{height} pixels, above the limit of {limits.megapixels:g} megapixels; "
            "make it smaller"
        )
    image = decode(upload.content, Path(upload.name), limits.megapixels)
    return resize(to_channels(image, inspector.channels), inspector.image_size)


def stated_size(content: bytes) -> tuple[int, int]:
    """Width and height by the file's header, (0, 0) where there is none to read; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as header:
            return header.size
    except Exception:  # broken headers raise anything; `decode` says what is wrong with such a file
        return 0, 0
