"""Overload: what does not fit into the queue hears 503 and when to come back, the rest is answered."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.inspector import Inspector
from flows.serving import Limits
from tests.serving_fixture import Standing, client, png


def test_overload_answers_503_with_retry_after_and_recovers(
    follower: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, real = threading.Event(), Inspector.inspect
    monkeypatch.setattr(Inspector, "inspect", lambda self, images: held.wait(60) and real(self, images))
    with client(follower, Limits(queue=3)) as server, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.post, "/inspect", content=png()) for _ in range(8)]
        until = time.monotonic() + 30
        while sum(one.done() for one in asked) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        held.set()
        answers = [one.result(60) for one in asked]
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [200] * 3 + [503] * 5
        assert all(1 <= int(a.headers["Retry-After"]) <= 60 for a in answers if a.status_code == 503)
        assert server.post("/inspect", content=png()).status_code == 200
        assert server.post("/inspect/batch", files=[("images", ("a", png()))] * 4).status_code == 503
