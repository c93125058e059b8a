"""Explanations and comparisons over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.serving_fixture import MODEL, noise, pixels, png, text


@pytest.fixture(scope="module")
def place(server: TestClient) -> dict[str, Any]:
    """A question about the middle of an inspected image."""
    codes = server.post("/inspect?include=codes", content=png()).json()["codes"]
    return {"model": MODEL, "codes": codes["codes"], "restored": codes["restored"], "row": 4, "column": 3,
            "likelihood": codes["likelihood"][4][3]}  # fmt: skip


def test_an_explanation_agrees_with_the_inspection(server: TestClient, place: dict[str, Any]) -> None:
    told = server.post("/explain", json=place).json()
    assert told["code"] == place["codes"][4][3]
    assert told["likelihood"] == pytest.approx(place["likelihood"], rel=1e-3, abs=1e-5)
    chances = [one["probability"] for one in told["expected"]]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1
    attention = np.array(told["attention"])
    assert attention.shape == (8, 8) and attention.sum() == pytest.approx(1, abs=1e-3)
    assert attention.ravel()[4 * 8 + 4 :].sum() == 0
    assert {pixels(one["patch"]).shape for one in [told, *told["expected"]]} == {(40, 40, 3)}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"row": 8}, 422),
        ({"row": -1}, 422),
        ({"column": 10**30}, 422),
        ({"codes": [[0]]}, 422),
        ({"codes": [[16] * 8] * 8}, 422),
        ({"codes": [[10**30] * 8] * 8}, 422),
        ({"restored": [[-1] * 8] * 8}, 422),
        ({"codes": "none"}, 422),
        ({"model": "production.brick/6"}, 409),
    ],
)
def test_a_place_that_is_not_there_is_refused(
    server: TestClient, place: dict[str, Any], change: dict[str, Any], status: int
) -> None:
    answer = server.post("/explain", json=place | change)
    assert answer.status_code == status and "\n" not in answer.json()["detail"]


def test_an_image_is_compared_with_its_references(server: TestClient) -> None:
    golden, other = png(noise(64, 64)), png(noise(64, 64, seed=5))
    files = [("image", ("test.png", golden)), ("reference", ("golden.png", golden))]
    same = server.post("/compare?levels=true&include=mask", files=files).json()
    assert same["verdict"] == "same" and same["score"] == 0 and same["references"] == ["golden.png"]
    assert pixels(same["pictures"]["mask"]).shape == (64, 64) and same["levels"]["size"] == 64
    sent = {"image": {"content": text(golden)}, "references": [{"name": "r", "content": text(other)}]}
    different = server.post("/compare?threshold=0", json=sent).json()
    assert different["verdict"] == "different" and different["score"] > 0 and different["regions"]


def test_a_comparison_needs_both_sides(server: TestClient) -> None:
    for files in ([("image", ("a", png()))], [("reference", ("a", png()))], [("image", ("a", png()))] * 2):
        answer = server.post("/compare", files=files)
        assert answer.status_code == 422 and "reference" in answer.json()["detail"]
    torn = [("image", ("a.png", png())), ("reference", ("torn.png", png()[:99]))]
    assert "torn.png" in server.post("/compare", files=torn).json()["detail"]
    assert server.post("/compare?threshold=nan", files=torn).status_code == 422
