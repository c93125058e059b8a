"""Batches form, one image's failure is its own, and what does not fit is told when to come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows.serving import batching
from flows.serving.batching import Admission, Batcher, BusyError
from flows.serving.follower import Loaded
from flows.serving.limits import Limits
from flows.serving.telemetry import Telemetry

LIMITS = Limits(batch=4, queue=6, gather=0.0)


class Slow:
    """A model that answers with the image's own number, and remembers its batches."""

    def __init__(self) -> None:
        self.gate, self.batches = threading.Event(), []
        self.entered = threading.Event()

    def inspect(self, images: list[np.ndarray]) -> list[Any]:
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append([int(image[0, 0, 0]) for image in images])
        if any(image[0, 0, 0] == 13 for image in images):
            raise ValueError("13")
        return [SimpleNamespace(score=int(image[0, 0, 0])) for image in images]


def image(number: int) -> np.ndarray:
    return np.full((2, 2, 1), number, np.uint8)


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    telemetry = Telemetry()
    made = Batcher(LIMITS, telemetry, Admission(LIMITS, telemetry))
    made.start()
    yield made
    made.stop()
    assert not made.thread.is_alive()


def slow() -> tuple[Slow, Loaded]:
    model = Slow()
    return model, Loaded("production.brick/1", model)  # type: ignore[arg-type]


def test_what_waits_goes_together_and_answers_belong_to_their_images(batcher: Batcher) -> None:
    model, loaded = slow()
    first = batcher.inspect(loaded, image(0))
    assert model.entered.wait(30)
    others = [batcher.inspect(loaded, image(n)) for n in range(1, 7)]
    model.gate.set()
    assert [future.result(30).score for future in [first, *others]] == list(range(7))
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_one_bad_image_fails_alone(batcher: Batcher) -> None:
    model, loaded = slow()
    batcher.inspect(loaded, image(0))
    model.entered.wait(30)
    futures = [batcher.inspect(loaded, image(n)) for n in (1, 13, 2)]
    model.gate.set()
    assert futures[0].result(30).score == 1 and futures[2].result(30).score == 2
    with pytest.raises(ValueError, match="13"):
        futures[1].result(30)


def test_a_batch_never_mixes_two_champions_and_calls_run_between(batcher: Batcher) -> None:
    old, one = slow()
    new, two = slow()
    new.gate.set()
    batcher.inspect(one, image(0))
    old.entered.wait(30)
    futures = [batcher.inspect(one, image(1)), batcher.inspect(two, image(2)), batcher.inspect(one, image(3))]
    called = batcher.call(lambda: (len(old.batches), len(new.batches)))
    last = batcher.inspect(two, image(4))
    old.gate.set()
    last.result(30)
    assert [future.result(30).score for future in futures] == [1, 2, 3]
    assert called.result(30) == (3, 1)
    assert old.batches == [[0], [1], [3]] and new.batches == [[2], [4]]


def test_whoever_left_is_not_inspected(batcher: Batcher) -> None:
    model, loaded = slow()
    batcher.inspect(loaded, image(0))
    model.entered.wait(30)
    gone, stays = batcher.inspect(loaded, image(1)), batcher.inspect(loaded, image(2))
    assert gone.cancel()
    model.gate.set()
    stays.result(30)
    assert model.batches == [[0], [2]]


def test_room_is_bounded_and_says_when_to_come_back() -> None:
    admission = Admission(LIMITS, Telemetry())
    admission.latest = 0.5
    with admission.reserve(4):
        with pytest.raises(BusyError) as busy, admission.reserve(3):
            pass
        assert busy.value.after == 2
        with admission.reserve(2):
            assert admission.waiting == 6
    assert admission.waiting == 0


def test_what_would_wait_too_long_is_told_when_to_come_back() -> None:
    admission = Admission(Limits(queue=64, wait=10), Telemetry())
    with admission.reserve(30):  # nothing is known of the pace yet
        pass
    admission.latest = 2.0
    with admission.reserve(3):
        with admission.reserve(2):
            with pytest.raises(BusyError) as busy, admission.reserve(1):
                pass
            assert busy.value.after == 10
        with pytest.raises(BusyError), admission.reserve(3):
            pass
    admission.latest = 100.0
    with admission.reserve(1), pytest.raises(BusyError) as busy, admission.reserve(1):
        pass
    assert busy.value.after == 60
    with admission.reserve(8):  # nothing waits: whoever came again would hear the same
        pass
    assert admission.waiting == 0


def test_a_batch_that_hangs_counts_before_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(batching.time, "monotonic", lambda: now[0])
    admission = Admission(Limits(queue=64, wait=10), Telemetry())
    with admission.reserve(4), admission.measured(4):
        with admission.reserve(4):
            assert admission.pace == 0
        now[0] += 8
        assert admission.pace == 2
        with admission.reserve(1):
            pass
        with pytest.raises(BusyError), admission.reserve(2):
            pass
    assert admission.latest == 2
    with admission.measured(2):
        now[0] += 2
    assert admission.latest == pytest.approx(2 + 0.3 * (1 - 2))
    with pytest.raises(ValueError, match="13"), admission.measured(1):
        now[0] += 4
        raise ValueError("13")
    assert admission.under_way is None and admission.latest > 2


def test_a_failing_call_fails_its_caller_only(batcher: Batcher) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        batcher.call(broken).result(30)
    assert batcher.call(time.monotonic).result(30) > 0


def test_a_call_counts_by_the_images_it_looks_at_and_only_when_it_runs(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[int, bool]] = []
    measured = batcher.admission.measured

    def noted(images: int, call: bool = False) -> AbstractContextManager[None]:
        counted.append((images, call))
        return measured(images, call)

    monkeypatch.setattr(batcher.admission, "measured", noted)
    gate = threading.Event()
    busy, given_up = batcher.call(gate.wait, images=4), batcher.call(list, images=9)
    assert given_up.cancel()
    gate.set()
    busy.result(30)
    assert batcher.call(time.monotonic, images=2).result(30) > 0
    assert counted == [(4, True), (2, True)]


def test_a_slow_call_lowers_what_is_admitted_and_a_fast_one_admits_no_more() -> None:
    admission = Admission(LIMITS, Telemetry())
    admission.latest = 0.3
    with admission.measured(1, call=True):
        pass
    assert admission.latest == 0.3
    admission.latest = 1e-9
    with admission.measured(1, call=True):
        time.sleep(0.01)
    assert admission.latest > 0.002
