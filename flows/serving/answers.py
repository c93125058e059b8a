"""The API's types: what a request may hold as JSON, and what every answer holds."""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

Grid = list[list[int]]


class Picture(StrEnum):
    """A picture of the answer; all are RGB at the model's size, `mask` is black and white, `score_map` 16-bit grey."""

    input = "input"
    reconstructed = "reconstructed"
    restored = "restored"
    heat = "heat"
    overlay = "overlay"
    regions = "regions"
    mask = "mask"
    score_map = "score_map"


class Include(StrEnum):
    """What an answer may hold beside the verdict: a picture as base64 PNG, the score map's levels, the codes."""

    input = "input"
    reconstructed = "reconstructed"
    restored = "restored"
    heat = "heat"
    overlay = "overlay"
    regions = "regions"
    mask = "mask"
    score_map = "score_map"
    levels = "levels"
    codes = "codes"


def from_base64(text: object) -> bytes:
    """Decode strictly: what is no base64 is refused rather than skipped over."""
    if not isinstance(text, str):
        raise ValueError("is not base64 text")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None


Content = Annotated[bytes, BeforeValidator(from_base64), Field(json_schema_extra={"format": "byte"})]


class ImageIn(BaseModel):
    """An image file as base64 text; `name` comes back with the answer."""

    content: Content
    name: str = "upload"


class ImagesIn(BaseModel):
    """Several images."""

    images: list[ImageIn] = Field(min_length=1)


class PairIn(BaseModel):
    """A test image and what it is compared with."""

    image: ImageIn
    references: list[ImageIn] = Field(min_length=1)


class Region(BaseModel):
    """A connected region of what is marked (components.outline): box and area in pixels of the map, highest value."""

    x: int
    y: int
    width: int
    height: int
    area: int
    score: float


class Levels(BaseModel):
    """A map (size x size) in 65,536 levels: value = low + level / 65535 * (high - low).

    `data` is base64 of the levels, unsigned 16 bits, little-endian, row by row.
    """

    size: int
    low: float
    high: float
    data: str


class Codes(BaseModel):
    """The grids behind the verdict, row by row: codes, restored codes, and p(code | the codes before it)."""

    codes: Grid
    restored: Grid
    likelihood: list[list[float]]


class Answer(BaseModel):
    """What the serving model says of one image; `score` above `threshold` is defective."""

    name: str
    model: str
    audit: str = Field(description="Where on this server the model's audit is.")
    score: float
    threshold: float
    pixel_threshold: float
    verdict: Literal["normal", "defective"]
    size: int = Field(description="Side of the map in pixels; boxes and areas are in these.")
    regions: list[Region]
    milliseconds: float = Field(description="From the whole request to this answer.")
    model_milliseconds: float = Field(description="This image's share of its batch in the model.")
    pictures: dict[Picture, str] | None = Field(None, description="base64 PNG, those that were asked for.")
    levels: Levels | None = None
    codes: Codes | None = None


class Unreadable(BaseModel):
    """An image of a batch that could not be read, and why."""

    name: str
    error: str


class Answers(BaseModel):
    """One entry per image, in the order they were sent."""

    answers: list[Answer | Unreadable]


class Comparison(BaseModel):
    """What differs in an image from its golden references; `score` above `threshold` is different."""

    name: str
    references: list[str]
    model: str
    audit: str
    score: float
    threshold: float
    verdict: Literal["same", "different"]
    changed: float = Field(description="Share of codes that occur nowhere near in the most similar reference.")
    size: int
    regions: list[Region]
    milliseconds: float
    pictures: dict[Picture, str] | None = None
    levels: Levels | None = None


class Position(BaseModel):
    """A place of an inspected image: the codes that its answer held (`include=codes`), and row and column of one."""

    model: str
    codes: Grid
    restored: Grid
    row: int = Field(ge=0)
    column: int = Field(ge=0)


class Expected(BaseModel):
    """A code, how likely the prior holds it at the place, and what the place looks like with it (base64 PNG)."""

    code: int
    probability: float
    patch: str


class Explanation(BaseModel):
    """Why a place is suspicious or not."""

    code: int
    likelihood: float = Field(description="p(code | the codes before it)")
    likelihood_restored: float = Field(description="p(code | the restored codes before it)")
    patch: str = Field(description="The place as it is, decoded (base64 PNG).")
    expected: list[Expected] = Field(description="The most likely codes after the restored ones, likeliest first.")
    attention: list[list[float]] = Field(description="Where the prior looked for its answer; sums to 1.")
    milliseconds: float


class ModelCard(BaseModel):
    """The serving model."""

    category: str
    model: str
    audit: str
    threshold: float
    pixel_threshold: float
    min_area: int = Field(description="Smallest region that counts, in pixels of the map.")
    reach: int = Field(description="How far around a strong score what is below half of it is not marked, in pixels.")
    size: int
    grid: int
    codebook_size: int
    score: str = Field(description="Which score map it is, by its name in components.detector.")
    map_low: float = Field(description="The heat map's lower end; its middle is the threshold.")


class Refusal(BaseModel):
    """Why a request was refused, in one line."""

    detail: str
