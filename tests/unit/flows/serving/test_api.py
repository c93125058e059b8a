"""The HTTP API: every way to send an image gives the same typed answer, and what is refused gets one line."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from flows.serving import Limits
from tests.serving_fixture import MODEL, Standing, client, noise, pixels, png, text


def test_every_way_to_send_an_image_gives_the_same_answer(server: TestClient) -> None:
    file = png()
    answers = [
        server.post("/inspect?name=a.png", content=file),
        server.post("/inspect", files={"image": ("a.png", file, "image/png")}),
        server.post("/inspect", json={"name": "a.png", "content": text(file)}),
        server.post("/inspect?name=a.png", content=file, headers={"content-type": "application/x-www-form-urlencoded"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    first, *others = [strip(answer.json()) for answer in answers]
    assert all(other == first for other in others)
    assert first["name"] == "a.png" and first["model"] == MODEL and first["audit"] == "/audit/7"
    assert first["verdict"] == ("defective" if first["score"] > first["threshold"] else "normal")


def strip(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if "milliseconds" not in name}


def test_the_answer_is_what_the_inspector_says(server: TestClient, follower: Standing) -> None:
    image = noise()
    answer = server.post("/inspect?include=levels&include=codes&include=mask", content=png(image[..., ::-1])).json()
    assert follower.loaded is not None
    seen = follower.loaded.inspector.inspect([image])[0]
    assert answer["score"] == pytest.approx(seen.score, rel=1e-4)
    levels = np.frombuffer(base64.b64decode(answer["levels"]["data"]), "<u2").reshape(seen.score_map.shape)
    low, high = answer["levels"]["low"], answer["levels"]["high"]
    assert low + levels / 65535 * (high - low) == pytest.approx(seen.score_map, abs=(high - low) / 1e4)
    assert answer["codes"]["codes"] == seen.codes.tolist()
    assert np.array_equal(pixels(answer["pictures"]["mask"]) > 0, seen.mask)
    assert sum(region["area"] for region in answer["regions"]) == seen.mask.sum()


def test_pictures_are_sent_only_when_asked_for(server: TestClient) -> None:
    plain = server.post("/inspect", content=png()).json()
    assert {"pictures", "levels", "codes"}.isdisjoint(plain)
    kinds = ("input", "reconstructed", "restored", "heat", "overlay", "regions")
    shown = server.post("/inspect", params={"include": kinds}, content=png()).json()["pictures"]
    assert {kind: pixels(shown[kind]).shape for kind in kinds} == dict.fromkeys(kinds, (64, 64, 3))
    answer = server.post("/inspect/picture?kind=score_map", content=png())
    assert answer.headers["content-type"] == "image/png" and answer.headers["X-Model"] == MODEL
    assert cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_a_batch_answers_in_order_and_a_bad_file_stops_no_other(server: TestClient) -> None:
    files = [("images", (f"{i}.png", png(noise(seed=i)), "image/png")) for i in range(3)]
    files.insert(1, ("images", ("torn.png", png()[:99], "image/png")))
    answers = server.post("/inspect/batch", files=files).json()["answers"]
    assert [answer["name"] for answer in answers] == ["0.png", "torn.png", "1.png", "2.png"]
    assert "truncated" in answers[1]["error"]
    sent = {"images": [{"name": f"{i}.png", "content": text(png(noise(seed=i)))} for i in range(3)]}
    again = server.post("/inspect/batch", json=sent).json()["answers"]
    scores = [answer["score"] for answer in answers if "score" in answer]
    assert [answer["score"] for answer in again] == pytest.approx(scores, rel=1e-3)


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"content": b""}, 422, "no image"),
        ({"content": b"hello"}, 422, "not an image"),
        ({"content": png()[:300]}, 422, "truncated"),
        ({"json": {"content": "not base64!"}}, 422, "content: is not base64"),
        ({"json": {"content": 3}}, 422, "content: is not base64 text"),
        ({"json": {}}, 422, "content: Field required"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "Invalid JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, ""),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"files": [("image", (f"{i}", png())) for i in range(2)]}, 422, "/inspect/batch"),
        ({"content": png(), "params": {"include": "everything"}}, 422, "include.0"),
    ],
)
def test_what_cannot_be_inspected_is_refused_with_one_line(
    server: TestClient, sent: dict[str, Any], status: int, words: str
) -> None:
    answer = server.post("/inspect", **sent)
    assert answer.status_code == status
    detail = answer.json()["detail"]
    assert words in detail and "\n" not in detail


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, as small as it gets."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, packed = zlib.compressobj(9), io.BytesIO()
    for _ in range(side):
        packed.write(packer.compress(bytes(side // 8 + 1)))
    packed.write(packer.flush())
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pieces = (chunk(b"IHDR", head), chunk(b"IDAT", packed.getvalue()), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    server: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bomb(20_000)
    assert len(file) < 100_000
    monkeypatch.setattr(cv2, "imdecode", None)  # whoever decodes, fails
    answer = server.post("/inspect?name=bomb.png", content=file)
    assert answer.status_code == 413
    assert answer.json()["detail"].startswith("bomb.png has 20000x20000 pixels, above the limit of 64 megapixels")


def test_requests_that_are_too_large_are_refused(follower: Standing) -> None:
    with client(follower, Limits(request_mb=0.02, images=2)) as small:
        for sent in ({"content": bytes(30_000)}, {"files": {"image": ("a", bytes(30_000))}}):
            answer = small.post("/inspect", **sent)
            assert answer.status_code == 413 and "more than 0.02 MB" in answer.json()["detail"]
        files = [("images", (f"{i}", png(noise(8, 8)))) for i in range(4)]
        assert small.post("/inspect/batch", files=files[:3]).status_code == 413
        assert small.post("/inspect/batch", files=files).status_code == 413
        assert small.post("/inspect/batch", files=files[:2]).status_code == 200


def test_bodies_that_arrive_together_share_a_bound(follower: Standing) -> None:
    with client(follower, Limits(buffer_mb=0.01)) as small:
        answer = small.post("/inspect", content=bytes(20_000))
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert small.post("/inspect", content=png(noise(8, 8))).status_code == 200  # nothing is left of the one before


def test_the_key_is_asked_for_where_there_is_one(follower: Standing) -> None:
    with client(follower, key="correct horse") as locked:
        for path in ("/health", "/ready", "/metrics"):
            assert locked.get(path).status_code == 200
        for headers in (
            {},
            {"X-API-Key": "wrong"},
            {"Authorization": "Bearer correct"},
            {"X-API-Key": "ключ".encode()},
        ):
            refused = locked.post("/inspect", content=png(), headers=headers)
            assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
        assert locked.get("/model").status_code == 401
        for headers in ({"X-API-Key": "correct horse"}, {"Authorization": "bearer correct horse"}):
            assert locked.post("/inspect", content=png(), headers=headers).status_code == 200


def test_alive_is_not_ready(follower: Standing) -> None:
    with client(Standing(follower.root, None)) as empty:
        assert empty.get("/health").status_code == 200
        for answer in (empty.get("/ready"), empty.get("/model"), empty.post("/inspect", content=png())):
            assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"


def test_prometheus_reads_what_was_done(follower: Standing) -> None:
    with client(follower) as fresh:
        fresh.post("/inspect", content=png())
        fresh.post("/inspect", content=b"no image")
        fresh.get("/no/such/page")
        answer = fresh.get("/metrics")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert lines['kintsugi_requests_total{method="POST",path="/inspect",status="200"}'] == "1.0"
    assert lines['kintsugi_requests_total{method="POST",path="/inspect",status="422"}'] == "1.0"
    assert lines['kintsugi_requests_total{method="other",path="other",status="404"}'] == "1.0"
    assert lines['kintsugi_images_total{verdict="unreadable"}'] == "1.0"
    assert lines["kintsugi_images_waiting"] == "0.0" and lines["kintsugi_batch_images_count"] == "1.0"
    assert lines[f'kintsugi_model_info{{model="{MODEL}"}}'] == "1.0"
    assert lines['kintsugi_request_seconds_count{path="/inspect"}'] == "2.0"


def test_the_api_describes_itself(server: TestClient) -> None:
    document = server.get("/openapi.json").json()
    kinds = document["paths"]["/inspect"]["post"]["requestBody"]["content"]
    assert set(kinds) == {"multipart/form-data", "application/json", "application/octet-stream"}
    schemas = document["components"]["schemas"]
    assert {"Answer", "Answers", "Region", "ImageIn", "ImagesIn"} <= set(schemas)
    named = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert named <= set(schemas)


def test_names_are_made_fit_for_a_log(server: TestClient, follower: Standing) -> None:
    answer = server.post("/inspect", json={"name": "a\nb\u2028c\x00" + "x" * 999, "content": text(png())})
    assert answer.json()["name"].startswith("a b c x") and len(answer.json()["name"]) == 200
    odd = server.post("/inspect?name=%ff%fe", content=png())
    assert odd.status_code == 200


def test_the_description_is_a_page_that_loads_nothing_from_elsewhere(server: TestClient) -> None:
    answer = server.get("/docs")
    assert "POST /inspect/batch" in answer.text and "Content-Security-Policy" in answer.headers
    assert re.findall(r'(?:src|href)="(?!/)', answer.text) == []
    assert server.get("/page/pico.classless.min.css").status_code == 200
    assert server.get("/page/../app.py").status_code == server.get("/page/%2e%2e/app.py").status_code == 404
