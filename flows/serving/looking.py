"""The two closer looks: why a place is suspicious, and what differs from a golden reference."""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
import torch
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool

from components import difference, explain
from components.errors import UserError
from components.evaluate.figures import display
from components.inspector import Inspector
from flows.serving import intake, telling
from flows.serving.answers import Comparison, Expected, Explanation, PairIn, Picture, Position
from flows.serving.bodies import REFUSALS, takes
from flows.serving.follower import Loaded
from flows.serving.intake import REFERENCE, Upload
from flows.serving.service import Service, refusal

SHOWN = (Picture.input, Picture.mask, Picture.score_map)  # what a comparison has pictures of
Kinds = Annotated[list[Picture], Query(description=f"Of {', '.join(SHOWN)}, as base64 PNG.")]


def looking(service: Service) -> APIRouter:
    """Explanations and comparisons."""
    router = APIRouter(tags=["a closer look"], responses=REFUSALS)

    @router.post("/explain", openapi_extra=takes(Position), responses={409: REFUSALS[409]})
    async def why(request: Request) -> Explanation:
        """What the prior expected at one place, and where it looked for that."""
        loaded = service.loaded()
        asked = await run_in_threadpool(intake.parse, Position, await request.body())
        if asked.model != loaded.model:
            raise HTTPException(409, f"{loaded.model} serves now; inspect the image again")
        codes, restored = (grid(loaded.inspector, one) for one in (asked.codes, asked.restored))
        if max(asked.row, asked.column) >= len(codes):
            raise HTTPException(422, f"row and column must be below {len(codes)}")
        return await service.alone(lambda: explained(loaded.inspector, codes, restored, asked.row, asked.column))

    @router.post(
        "/compare",
        openapi_extra=takes(PairIn, {"image": True, REFERENCE: False}),
        response_model_exclude_none=True,
    )
    async def compare(
        request: Request,
        threshold: Annotated[float, Query(ge=0, allow_inf_nan=False)] = difference.THRESHOLD,
        include: Kinds = [],  # noqa: B006
        levels: bool = False,
    ) -> Comparison:
        """What differs in an image (field `image`) from its golden references (fields `reference`)."""
        loaded = service.loaded()
        sent = await intake.uploads(request, service.limits, PairIn)
        references = [one for one in sent if one.field == REFERENCE]
        tests = [one for one in sent if one.field != REFERENCE]
        if len(tests) != 1 or not references:
            raise HTTPException(422, f"send one image and at least one file in the field '{REFERENCE}'")
        started = time.perf_counter()
        images = [await decoded(service, one, loaded) for one in (*tests, *references)]
        found = await service.alone(
            lambda: difference.compare(loaded.inspector, images[0], images[1:], threshold), len(images)
        )
        answer = compared(tests[0], references, loaded, images[0], found, threshold, include)
        answer.levels = telling.levels(found.score_map) if levels else None
        answer.milliseconds = round(1000 * (time.perf_counter() - started), 1)
        return answer

    return router


def grid(inspector: Inspector, rows: list[list[int]]) -> torch.Tensor:
    """A grid of codes as this model has them; 422 for any other."""
    prior = inspector.detector.prior
    fits = len(rows) == prior.grid and all(len(row) == prior.grid for row in rows)
    if not fits or not all(0 <= code < prior.codebook_size for row in rows for code in row):
        raise HTTPException(422, f"codes must be {prior.grid} rows of {prior.grid}, each below {prior.codebook_size}")
    return torch.tensor(rows, device=inspector.device)


def explained(inspector: Inspector, codes: torch.Tensor, restored: torch.Tensor, row: int, column: int) -> Explanation:
    """The explanation of one place."""
    started = time.perf_counter()
    told = explain.expect(inspector.detector.prior, codes, restored, row, column)
    own = int(codes[row, column])
    decode = inspector.detector.vqvae.decode
    as_it_is = explain.patches(decode, codes, row, column, (own,))[0]
    shown = explain.patches(decode, restored, row, column, told.codes)
    expected = zip(told.codes, told.probabilities, shown, strict=True)
    return Explanation(
        code=own,
        likelihood=told.likelihood,
        likelihood_restored=told.likelihood_restored,
        patch=telling.encoded(as_it_is),
        expected=[Expected(code=k, probability=p, patch=telling.encoded(patch)) for k, p, patch in expected],
        attention=[[round(float(weight), 6) for weight in line] for line in told.attention],
        milliseconds=round(1000 * (time.perf_counter() - started), 1),
    )


async def decoded(service: Service, upload: Upload, loaded: Loaded) -> np.ndarray:
    """The upload's pixels; 413 or 422 when they cannot be had."""
    try:
        return await service.decoded(upload, loaded)
    except UserError as error:
        raise refusal(error) from None


def compared(
    test: Upload,
    references: list[Upload],
    loaded: Loaded,
    image: np.ndarray,
    found: difference.Difference,
    threshold: float,
    include: list[Picture],
) -> Comparison:
    """The answer to a comparison."""
    size = len(found.score_map)
    pictures = {
        Picture.input: display(image, (size, size)),
        Picture.mask: found.mask.astype(np.uint8) * 255,
        Picture.score_map: telling.quantised(found.score_map)[0],
    }
    return Comparison(
        name=test.name,
        references=[one.name for one in references],
        model=loaded.model,
        audit=telling.audit_address(loaded.model),
        score=found.score,
        threshold=threshold,
        verdict="different" if found.differs else "same",
        changed=found.changed,
        size=size,
        regions=telling.regions(found.mask, found.score_map),
        milliseconds=0,
        pictures={one: telling.encoded(pictures[one]) for one in include if one in pictures} or None,
    )
