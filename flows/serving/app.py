"""The HTTP API."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from components.errors import UserError
from flows.serving import intake, telling
from flows.serving.answers import Answer, Answers, ImageIn, ImagesIn, Include, ModelCard, Picture
from flows.serving.bodies import REFUSALS, describe, takes
from flows.serving.follower import Follower
from flows.serving.guard import Guard
from flows.serving.limits import Limits
from flows.serving.looking import looking
from flows.serving.pages import mount, pages
from flows.serving.service import Service, refusal, told
from flows.serving.telemetry import CONTENT_TYPE

PNG = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture."}
Wanted = Annotated[list[Include], Query(description="What to send beside the verdict.")]
Name = Annotated[str, Query(description="The image's name when the body is the file itself.")]


def create_app(follower: Follower, every: float = 5.0, limits: Limits | None = None, key: str | None = None) -> FastAPI:
    """The server of a category; the alias is looked up every `every` seconds, `key` is asked of every request
    that concerns images or models."""
    service = Service(follower, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running(every):
            yield

    # FastAPI's own /docs loads its scripts from elsewhere; ours is in `flows.serving.pages`.
    app = FastAPI(title=f"Kintsugi: {follower.category}", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, limits=service.limits, key=key, telemetry=service.telemetry)
    app.add_exception_handler(RequestValidationError, _one_line)
    app.include_router(state(service))
    app.include_router(inspection(service))
    app.include_router(looking(service))
    app.include_router(pages(service))
    mount(app)
    describe(app)
    return app


def _one_line(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": intake.told(error.errors())}, 422)


def state(service: Service) -> APIRouter:
    """Is it alive, is it ready, which model is it, what did it do. All at once, however busy the threads are."""
    router = APIRouter(tags=["state"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @router.get("/ready", responses={503: REFUSALS[503]})
    async def ready() -> dict[str, str]:
        """Whether a model is loaded, and which."""
        return {"model": service.loaded().model}

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        if service.follower.loaded is not None:
            service.telemetry.serves(service.follower.loaded.model)
        return Response(service.telemetry.text(), media_type=CONTENT_TYPE)

    @router.get("/model", responses={503: REFUSALS[503]})
    async def model() -> ModelCard:
        """The serving model: thresholds, sizes, where its audit is."""
        return telling.card(service.follower.category, service.loaded())

    return router


def inspection(service: Service) -> APIRouter:
    """Images in, verdicts out."""
    router = APIRouter(tags=["inspection"], responses=REFUSALS)

    async def single(request: Request, name: str, include: list[Include]) -> Answer:
        service.loaded()
        sent = await intake.uploads(request, service.limits, ImageIn, name)
        if len(sent) > 1:
            raise HTTPException(422, f"{len(sent)} images in one request; POST several to /inspect/batch")
        found = (await service.inspect(sent, include))[0]
        if isinstance(found, UserError):
            raise refusal(found)
        return found

    @router.post("/inspect", openapi_extra=takes(ImageIn, {"image": True}, raw=True), response_model_exclude_none=True)
    async def inspect(request: Request, name: Name = "upload", include: Wanted = []) -> Answer:  # noqa: B006
        """Inspect one image: the file itself as the body, a form with one file, or JSON with base64."""
        return await single(request, name, include)

    @router.post("/inspect/batch", openapi_extra=takes(ImagesIn, {"images": False}), response_model_exclude_none=True)
    async def batch(request: Request, include: Wanted = []) -> Answers:  # noqa: B006
        """Inspect several images; one that cannot be read gets its reason and stops no other."""
        service.loaded()
        sent = await intake.uploads(request, service.limits, ImagesIn)
        found = await service.inspect(sent, include)
        return Answers(answers=[told(one.name, answer) for one, answer in zip(sent, found, strict=True)])

    @router.post(
        "/inspect/picture",
        openapi_extra=takes(ImageIn, {"image": True}, raw=True),
        response_class=Response,
        responses={200: PNG},
    )
    async def one_picture(request: Request, kind: Picture = Picture.overlay, name: Name = "upload") -> Response:
        """Inspect one image and send one picture of it as PNG; verdict, score and model are in the headers."""
        found = await single(request, name, [Include(kind)])
        assert found.pictures is not None
        headers = {"X-Verdict": found.verdict, "X-Score": f"{found.score:.6g}", "X-Model": found.model}
        return Response(base64.b64decode(found.pictures[kind]), media_type="image/png", headers=headers)

    return router
