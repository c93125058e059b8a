"""The following server: a promotion and a rollback change who answers, without a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from components.errors import UserError
from flows import drift
from flows.promote import rollback
from flows.publish import publish
from flows.serving import Follower, create_app
from tests.artifacts_fixture import Fabricator, write_bundle


def photograph() -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def promoted(plant: Fabricator, seed: int) -> None:
    """Publish another real bundle; the policy promotes it."""
    plant(seed=seed)
    write_bundle(plant.root / "artifacts" / "brick" / "package", seed=seed)
    plant.record("brick")
    assert publish(plant.root, "brick").status == "promoted"


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.1)


def test_a_promotion_and_a_rollback_are_followed_without_a_restart(plant: Fabricator) -> None:
    promoted(plant, 1)
    follower = Follower(plant.root, "brick", "cpu")
    with TestClient(create_app(follower, every=0.2)) as client:

        def serves(number: int) -> bool:
            answer = client.get("/ready")
            return answer.status_code == 200 and answer.json()["model"] == f"production.brick/{number}"

        assert client.get("/health").status_code == 200
        until(lambda: serves(1))
        first = client.post("/inspect?name=a.png", content=photograph()).json()
        assert first["model"] == "production.brick/1"
        assert first["verdict"] == ("defective" if first["score"] > first["threshold"] else "normal")
        promoted(plant, 2)
        until(lambda: serves(2))
        assert client.post("/inspect", content=photograph()).json()["model"] == "production.brick/2"
        rollback(plant.root, "brick", "Ada", "it flags good parts")
        until(lambda: serves(1))
        assert client.post("/inspect?name=a.png", content=photograph()).json()["score"] == pytest.approx(first["score"])
    logged = drift.recent(plant.root, "brick", datetime.now(UTC) - timedelta(hours=1))
    assert sorted(logged.model) == ["production.brick/1", "production.brick/1", "production.brick/2"]


def test_a_category_that_nobody_promoted_is_not_ready(plant: Fabricator) -> None:
    follower = Follower(plant.root, "brick", "cpu")
    with pytest.raises(UserError, match="kintsugi promote brick"):
        follower.refresh()
    with TestClient(create_app(follower, every=60)) as client:
        answer = client.get("/ready")
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
        assert client.post("/inspect", content=photograph()).status_code == 503


def test_the_answers_link_leads_to_the_audit(plant: Fabricator) -> None:
    promoted(plant, 1)
    follower = Follower(plant.root, "brick", "cpu")
    follower.refresh()
    with TestClient(create_app(follower, every=60)) as client:
        link = client.post("/inspect", content=photograph()).json()["audit"]
        page = client.get(link)
        assert page.status_code == 200 and "Audit of production.brick version 1" in page.text
        assert client.get("/audit/99").status_code == 404
