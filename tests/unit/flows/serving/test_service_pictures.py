"""Pictures and codes of an answer are made by the thread that owns the model, and their time counts as its batch's."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient

from components.inspector import Inspector
from flows.serving import Limits
from flows.serving.answers import Include
from flows.serving.intake import Upload
from flows.serving.service import Service
from tests.serving_fixture import Standing, png


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What restored or drew, and the thread that it was in."""
    seen: list[tuple[str, str]] = []
    for name in ("restored", "draw"):
        real = getattr(Inspector, name)

        def noted(self: Inspector, *given: np.ndarray, real=real, name=name) -> np.ndarray:  # type: ignore[no-untyped-def]
            seen.append((name, threading.current_thread().name))
            found: np.ndarray = real(self, *given)
            return found

        monkeypatch.setattr(Inspector, name, noted)
    return seen


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/inspect?include=reconstructed", {"draw"}),
        ("/inspect?include=codes", {"restored"}),
        ("/inspect/picture?kind=restored", {"restored", "draw"}),
        ("/inspect?include=heat&include=overlay&include=levels", set()),
    ],
)
def test_the_model_is_used_by_its_own_thread_alone_and_only_when_asked(
    server: TestClient, threads: list[tuple[str, str]], path: str, made: set[str]
) -> None:
    assert server.post(path, content=png()).status_code == 200
    assert {name for name, _ in threads} == made
    assert {thread for _, thread in threads} <= {"inspection"}


def test_the_pace_that_the_wait_is_promised_by_knows_of_drawing(
    follower: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Inspector.draw
    monkeypatch.setattr(Inspector, "draw", lambda self, codes: time.sleep(0.4) or real(self, codes))

    async def pace() -> float:
        service = Service(follower, Limits())
        async with service.running(60):
            await service.inspect([Upload(f"{i}.png", png()) for i in range(3)], [Include.reconstructed])
        return service.admission.latest

    assert asyncio.run(pace()) >= 0.4


def test_a_picture_that_cannot_be_drawn_fails_its_own_image_only(
    follower: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Inspector, codes: np.ndarray) -> np.ndarray:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Inspector, "draw", broken)

    async def both() -> list[object]:
        service = Service(follower, Limits(gather=0.5))
        async with service.running(60):
            asked = [service.inspect([Upload("a", png())], include) for include in ([Include.restored], [])]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    drawn, plain = asyncio.run(both())
    assert isinstance(drawn, RuntimeError) and isinstance(plain, list)
