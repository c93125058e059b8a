"""Images of requests that arrive together go through the model together.

One thread owns the model: it takes whatever waits, up to a batch, and no two batches ever share the cores. What
may wait is bounded where a request is accepted (`Admission`), in images and in seconds, so the queue itself needs no
bound.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.inspector import Inspection
from flows.serving.follower import Loaded
from flows.serving.limits import Limits
from flows.serving.telemetry import Telemetry

log = logging.getLogger(__name__)

LONGEST = 60  # seconds that anyone is told to stay away
LATEST = 0.3  # weight of the latest batch in the pace: a machine that slows down is noticed within a few batches


class BusyError(Exception):
    """Too much waits already; `after` is in how many seconds there should be room."""

    def __init__(self, after: int) -> None:
        super().__init__(f"the server is busy; try again in {after} s")
        self.after = after


class Admission:
    """How many images were accepted and not yet answered, and how long that many take.

    `reserve` is for the event loop's thread, `measured` for the model's.
    """

    def __init__(self, limits: Limits, telemetry: Telemetry) -> None:
        self.limits, self.waiting, self.telemetry = limits, 0, telemetry
        self.latest = 0.0  # seconds an image took of late; nothing is known before the first
        self.under_way: tuple[float, int] | None = None  # since when, and how many images
        telemetry.capacity.set(limits.queue)

    @property
    def pace(self) -> float:
        """Seconds an image takes: of late, or so far if the present batch takes longer than that."""
        now = self.under_way
        return max(self.latest, (time.monotonic() - now[0]) / now[1] if now else 0.0)

    @contextmanager
    def reserve(self, images: int) -> Iterator[None]:
        """Room for so many images while the block runs; BusyError when more would wait than the limits' count, or
        longer than their seconds. With nothing waiting, time refuses nobody: trying again would not help."""
        pace = self.pace
        late = self.waiting > 0 and (self.waiting + images) * pace > self.limits.wait
        if late or self.waiting + images > self.limits.queue:
            raise BusyError(min(max(math.ceil(self.waiting * pace), 1), LONGEST))
        self._count(images)
        try:
            yield
        finally:
            self._count(-images)

    @contextmanager
    def measured(self, images: int, call: bool = False) -> Iterator[None]:
        """Time a batch of so many images; or a call, which may be a slow one but says nothing of fast inspections."""
        started = time.monotonic()
        self.under_way = (started, images)
        try:
            yield
        finally:
            self.under_way = None
            took = (time.monotonic() - started) / images
            if not call or took > self.latest:
                self.latest += (LATEST if self.latest else 1.0) * (took - self.latest)

    def _count(self, images: int) -> None:
        self.waiting += images
        self.telemetry.waiting.set(self.waiting)


@dataclass(frozen=True)
class Job:
    """One image (H, W, 1 or 3) for one model, and what else of the model its answer needs; or any other call that needs
    the model to itself, for as many `images`."""

    work: Callable[[], Any] | None
    loaded: Loaded | None = None
    image: np.ndarray | None = None
    then: Callable[[Inspection], object] | None = None
    images: int = 1
    future: Future[Any] = field(default_factory=Future)


STOP = Job(None)


class Batcher:
    """The thread that owns the model."""

    def __init__(self, limits: Limits, telemetry: Telemetry, admission: Admission) -> None:
        self.limits, self.telemetry, self.admission = limits, telemetry, admission
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.held: Job | None = None  # taken from the queue, but of another kind than the batch
        self.thread = threading.Thread(target=self._run, name="inspection", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self.thread.start()

    def stop(self) -> None:
        """Finish what was asked before, then end."""
        self.jobs.put(STOP)
        self.thread.join()

    def inspect(
        self, loaded: Loaded, image: np.ndarray, then: Callable[[Inspection], object] | None = None
    ) -> Future[Inspection]:
        """What the model says of an image, some time later; `then` uses the model further and counts as its batch's."""
        job = Job(None, loaded, image, then)
        self.jobs.put(job)
        return job.future

    def call(self, work: Callable[[], Any], images: int = 1) -> Future[Any]:
        """The result of a function that runs between two batches and looks at so many images."""
        job = Job(work, images=images)
        self.jobs.put(job)
        return job.future

    def _run(self) -> None:
        while True:
            job = self.held or self.jobs.get()
            self.held = None
            if job is STOP:
                return
            if job.work is not None:
                self._settle(job, job.work)
                continue
            batch = [one for one in self._gather(job) if one.future.set_running_or_notify_cancel()]
            if batch:
                self._inspect(batch)

    def _gather(self, first: Job) -> list[Job]:
        batch, until = [first], time.monotonic() + self.limits.gather
        while len(batch) < self.limits.batch:
            try:
                job = self.jobs.get(timeout=max(until - time.monotonic(), 0))
            except queue.Empty:
                break
            if job.loaded is not first.loaded:  # a call, the end, or an image for a newer champion
                self.held = job
                break
            batch.append(job)
        return batch

    def _inspect(self, batch: list[Job]) -> None:
        loaded = batch[0].loaded
        assert loaded is not None
        started = time.perf_counter()
        try:
            with self.admission.measured(len(batch)):
                seen = loaded.inspector.inspect([job.image for job in batch if job.image is not None])
                for job, one in zip(batch, seen, strict=True):
                    if job.then is not None:
                        job.then(one)
        except Exception as error:
            if len(batch) > 1:  # whichever image it was: the others are not to suffer for it
                for job in batch:
                    self._inspect([job])
                return
            log.exception("%s could not inspect an image", loaded.model)
            batch[0].future.set_exception(error)
            return
        seconds = time.perf_counter() - started
        self.telemetry.batches.observe(len(batch))
        self.telemetry.inference.observe(seconds)
        for job, one in zip(batch, seen, strict=True):
            job.future.set_result(one)

    def _settle(self, job: Job, work: Callable[[], Any]) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            with self.admission.measured(job.images, call=True):
                result = work()
        except Exception as error:
            job.future.set_exception(error)
            return
        job.future.set_result(result)
