"""What the routes share: the champion, the batches, the limits, the scores' way to the drift log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from functools import partial
from typing import TypeVar

import anyio.to_thread
import numpy as np
from anyio import CapacityLimiter
from fastapi import HTTPException

from components.errors import UserError
from flows.serving import intake, telling
from flows.serving.answers import Answer, Include, Unreadable
from flows.serving.batching import Admission, Batcher, BusyError
from flows.serving.follower import Follower, Loaded
from flows.serving.intake import Upload
from flows.serving.limits import Limits
from flows.serving.scores import ScoreLog
from flows.serving.telemetry import Telemetry

T = TypeVar("T")


class Service:
    """One category's server, without its addresses."""

    def __init__(self, follower: Follower, limits: Limits) -> None:
        self.follower, self.limits = follower, limits
        self.telemetry = Telemetry()
        self.admission = Admission(limits, self.telemetry)
        self.batcher = Batcher(limits, self.telemetry, self.admission)
        self.scores = ScoreLog(follower.root, follower.category)
        self.decoders = CapacityLimiter(limits.decoders)

    @contextlib.asynccontextmanager
    async def running(self, every: float) -> AsyncIterator[None]:
        """Batches are formed, the alias followed and scores written while the block runs."""
        self.batcher.start()
        tasks = [asyncio.create_task(self.follower.follow(every)), asyncio.create_task(self.scores.keep())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(self.batcher.stop)
            await asyncio.to_thread(self.scores.flush)

    def loaded(self) -> Loaded:
        """The model in memory; 503 before there is one."""
        loaded = self.follower.loaded
        if loaded is None:
            raise HTTPException(503, f"no version of '{self.follower.category}' is loaded yet", {"Retry-After": "5"})
        return loaded

    async def inspect(self, sent: Sequence[Upload], include: Collection[Include]) -> list[Answer | UserError]:
        """An answer, or why there is none, for each upload in its order; 503 when too much waits."""
        loaded, started = self.loaded(), time.perf_counter()

        async def one(upload: Upload) -> Answer | UserError:
            try:
                image = await self.decoded(upload, loaded)
            except UserError as error:
                self.telemetry.images.labels("unreadable").inc()
                return error
            make = partial(telling.make, include=include)
            seen = await asyncio.wrap_future(self.batcher.inspect(loaded, image, make))
            self.scores.note(upload.name, loaded.model, seen)
            self.telemetry.images.labels("defective" if seen.anomalous else "normal").inc()
            return await asyncio.to_thread(
                lambda: telling.answer(
                    upload.name, loaded, image, seen, include, 1000 * (time.perf_counter() - started)
                )
            )

        with self.room(len(sent)):
            return list(await asyncio.gather(*(one(upload) for upload in sent)))

    async def decoded(self, upload: Upload, loaded: Loaded) -> np.ndarray:
        """The upload's pixels at the model's size; UserError when they cannot be had."""
        return await anyio.to_thread.run_sync(intake.read, upload, loaded.inspector, self.limits, limiter=self.decoders)

    async def alone(self, work: Callable[[], T], images: int = 1) -> T:
        """The result of a function that needs the model to itself for so many images; 503 when too much waits."""
        with self.room(images):
            result: T = await asyncio.wrap_future(self.batcher.call(work, images))
            return result

    @contextlib.contextmanager
    def room(self, images: int) -> Iterator[None]:
        """Room in the queue while the block runs; 503 with Retry-After when there is none."""
        try:
            with self.admission.reserve(images):
                yield
        except BusyError as busy:
            raise HTTPException(503, str(busy), {"Retry-After": str(busy.after)}) from None


def refusal(error: UserError) -> HTTPException:
    """How an image that cannot be used is refused."""
    return HTTPException(413 if isinstance(error, intake.TooLargeError) else 422, str(error))


def told(name: str, found: Answer | UserError) -> Answer | Unreadable:
    """A batch's entry for one image."""
    return Unreadable(name=name, error=str(found)) if isinstance(found, UserError) else found
