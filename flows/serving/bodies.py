"""How OpenAPI describes the bodies that we read ourselves, and what every route may refuse."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from flows.serving.answers import ImageIn, ImagesIn, PairIn, Position, Refusal
from flows.serving.intake import JSON, MULTIPART

SCHEMAS = "#/components/schemas/{model}"
BODIES: tuple[type[BaseModel], ...] = (ImageIn, ImagesIn, PairIn, Position)
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The form is malformed."},
    401: {"model": Refusal, "description": "The API key is missing or wrong."},
    408: {"model": Refusal, "description": "The request took too long to arrive."},
    409: {"model": Refusal, "description": "Another model serves by now."},
    413: {"model": Refusal, "description": "Too many bytes, pixels or images."},
    422: {"model": Refusal, "description": "No image, or one that cannot be read."},
    503: {"model": Refusal, "description": "Busy, or no model yet; Retry-After says when to come back."},
}


def takes(model: type[BaseModel], fields: dict[str, bool] | None = None, raw: bool = False) -> dict[str, Any]:
    """A route's request body: JSON of `model`, a form with `fields` (True: one file, False: several), or, where
    `raw`, the file itself."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": SCHEMAS.format(model=model.__name__)}}}
    binary = {"type": "string", "format": "binary"}
    if fields:
        form = {name: binary if one else {"type": "array", "items": binary} for name, one in fields.items()}
        content[MULTIPART] = {"schema": {"type": "object", "properties": form}}
    if raw:
        content["application/octet-stream"] = {"schema": binary}
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI) -> None:
    """Add those bodies to the app's OpenAPI document; to be called when all routes are there."""
    schema = app.openapi()
    _, extra = models_json_schema([(model, "validation") for model in BODIES], ref_template=SCHEMAS)
    schema["components"]["schemas"] |= extra["$defs"]
