"""Load, in seconds: the same clients as `benchmarks/load.py`, at a tiny model."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks._load import press
from flows.serving import Limits
from tests.browser_fixture import running
from tests.serving_fixture import noise, png, standing

IMAGES = [png(noise(64, 64, seed)) for seed in range(8)]


def test_thirty_two_clients_get_answers_in_batches_and_memory_stays(tmp_path: Path) -> None:
    with running(standing(tmp_path)) as address:
        seen = asyncio.run(press(address, IMAGES, clients=32, seconds=4))
    assert set(seen.codes) == {200}
    assert max(int(size) for size in seen.batches) == 8
    assert sum(int(size) * count for size, count in seen.batches.items()) == len(seen.seconds)
    settled = seen.memory[len(seen.memory) // 2]
    assert max(seen.memory[len(seen.memory) // 2 :]) < settled + 100, seen.told()
    written = list((tmp_path / "logs" / "inspections" / "brick").glob("*.parquet"))
    assert 1 <= len(written) <= 3  # and not one for each image


def test_more_than_the_queue_holds_hear_503_and_when_to_come_back(tmp_path: Path) -> None:
    with running(standing(tmp_path), limits=Limits(queue=8)) as address:
        seen = asyncio.run(press(address, IMAGES, clients=32, seconds=2))
    assert set(seen.codes) == {200, 503} and seen.unkind == 0
    assert seen.codes[200] > 8


def test_who_would_wait_too_long_hears_503_though_the_queue_has_room(tmp_path: Path) -> None:
    with running(standing(tmp_path), limits=Limits(queue=1000, wait=0.001)) as address:
        known = asyncio.run(press(address, IMAGES, clients=1, seconds=0.5))  # alone, it is taken; and the pace is known
        seen = asyncio.run(press(address, IMAGES, clients=32, seconds=1))
    assert set(known.codes) == {200}
    assert set(seen.codes) == {200, 503} and seen.unkind == 0
