"""A server that follows the alias: whoever is champion answers, from a few seconds after the promotion on.

One image per request, as the body's bytes; the answer names the version that gave it. A new champion is loaded
beside the old one and takes its place between two requests, so none is refused or answered by half a model.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from components.dataset.images import decode
from components.device import find_device
from components.errors import UserError
from components.inspector import Inspection, Inspector
from flows import drift
from flows.adapters import registry, served, tracking
from flows.inspection import MAX_MEGAPIXELS

MAX_BYTES = 64 * 2**20  # of one request
BINARY = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

log = logging.getLogger(__name__)


class Answer(BaseModel):
    """What the serving model says of one image; boxes are x, y, width, height in pixels of the model's size."""

    model: str
    score: float
    threshold: float
    verdict: str
    regions: list[tuple[int, int, int, int]]
    seconds: float


@dataclass(frozen=True)
class Loaded:
    """A champion in memory: `model` is production.<category>/<version>."""

    model: str
    inspector: Inspector


class Follower:
    """Holds the champion of a category and exchanges it when the alias has moved."""

    def __init__(self, root: Path, category: str, device: str | None = None) -> None:
        self.root, self.category, self.device = root, category, device or str(find_device())
        self.loaded: Loaded | None = None
        self.turn = threading.Lock()  # one inspection at a time: two would share the same cores

    def refresh(self) -> bool:
        """Load the champion if it is another one than the loaded; whether it was. UserError when none serves."""
        client = tracking.connect(self.root)
        name = registry.production(self.category)
        number = registry.aliased(client, name, registry.CHAMPION)
        if not number:
            raise UserError(f"no version of '{self.category}' serves yet; run `kintsugi promote {self.category}`")
        model = f"{name}/{number}"
        if self.loaded is not None and self.loaded.model == model:
            return False
        version = registry.resolve(client, self.category, number)
        folder = served.package_in(Path(registry.download(client, version)))
        self.loaded = Loaded(model, Inspector.load(folder, self.device))
        log.info("%s serves", model)
        return True

    def inspect(self, image: np.ndarray, name: str) -> Answer:
        """Inspect one image with whoever is loaded, and append the score to the drift log."""
        with self.turn:
            loaded = self.loaded
            if loaded is None:
                raise UserError(f"no version of '{self.category}' is loaded yet; ask again in a moment")
            seen = loaded.inspector.inspect([image])[0]
        row = {
            "path": name,
            "score": seen.score,
            "least_likelihood": float(seen.likelihood.min()),
            "model": loaded.model,
        }
        drift.append(self.root, self.category, pd.DataFrame([row]))
        return _answer(loaded, seen)


def _answer(loaded: Loaded, seen: Inspection) -> Answer:
    contours, _ = cv2.findContours(seen.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = [cv2.boundingRect(contour) for contour in contours]
    return Answer(
        model=loaded.model,
        score=seen.score,
        threshold=loaded.inspector.image_threshold,
        verdict="defective" if seen.anomalous else "normal",
        regions=[(int(x), int(y), int(w), int(h)) for x, y, w, h in boxes],
        seconds=seen.seconds,
    )


def create_app(follower: Follower, every: float = 5.0) -> FastAPI:
    """The HTTP API: POST /inspect with an image file as the body, GET /health, GET /ready.

    The alias is looked up every `every` seconds. While the registry does not answer, the loaded model goes on.
    """

    async def follow() -> None:
        while True:
            try:
                await asyncio.to_thread(follower.refresh)
            except Exception as error:  # the registry may be away or the package damaged: keep serving, and say so
                log.warning("the champion of %s could not be looked up: %s", follower.category, error)
            await asyncio.sleep(every)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(follow())
        yield
        task.cancel()

    app = FastAPI(title=f"Kintsugi: {follower.category}", lifespan=lifespan)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    def ready() -> dict[str, str]:
        if follower.loaded is None:
            raise HTTPException(503, f"no version of '{follower.category}' is loaded yet", {"Retry-After": "5"})
        return {"model": follower.loaded.model}

    @app.post("/inspect", openapi_extra={"requestBody": BINARY})
    async def inspect(request: Request, name: str = "upload") -> Answer:
        ready()
        content = bytearray()
        async for chunk in request.stream():  # a length that the client states need not be the true one
            content += chunk
            if len(content) > MAX_BYTES:
                raise HTTPException(413, f"the image has more than {MAX_BYTES >> 20} MB; make it smaller")
        return await run_in_threadpool(seen, bytes(content), name)

    def seen(content: bytes, name: str) -> Answer:
        try:
            image = decode(content, Path(name), MAX_MEGAPIXELS)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        return follower.inspect(image, name)

    return app


def serve(root: Path, category: str, host: str, port: int, every: float) -> None:
    """Serve a category's champion until Ctrl-C; UserError at once when none serves."""
    import uvicorn

    follower = Follower(root, category)
    follower.refresh()
    uvicorn.run(create_app(follower, every), host=host, port=port, log_level="warning")
