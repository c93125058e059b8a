"""Hostile requests: never a 500, never a hang, one line for every refusal. `benchmarks/hostile.py` sends many more."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

from benchmarks._hostile import Sent, requests
from flows.serving import Limits, create_app
from tests.browser_fixture import running
from tests.serving_fixture import Standing, noise, png, standing

LIMITS = Limits(request_mb=0.2, megapixels=1, images=6, arrival=1.0)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Standing:
    return standing(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def server(champion: Standing) -> Iterator[TestClient]:
    with TestClient(create_app(champion, 60, LIMITS)) as running_server:  # what the server does not expect is raised
        yield running_server


@pytest.fixture(scope="module")
def address(champion: Standing) -> Iterator[str]:
    with running(champion, limits=LIMITS) as found:
        yield found


@settings(max_examples=200, deadline=30_000, suppress_health_check=list(HealthCheck), derandomize=True)
@given(sent=requests())
def test_no_request_breaks_the_server(server: TestClient, sent: Sent) -> None:
    answer = server.request(sent.method, sent.path, params=sent.params, headers=sent.headers, content=sent.body)
    assert sent.wrong(answer.status_code, answer.text) == ""


def test_the_server_is_as_good_as_new_afterwards(server: TestClient) -> None:
    assert server.post("/inspect", content=png(noise(64, 64))).status_code == 200
    counters = server.get("/metrics").text
    assert "kintsugi_images_waiting 0.0" in counters


PATIENCE = 30  # seconds, on a busy machine
HEAD = b"POST /inspect HTTP/1.1\r\nHost: x\r\n"
SPOKEN = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no request line": b"\r\n\r\n\r\n",
    "endless header": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length and chunks": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "broken chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n",
    "endless chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"2000\r\n" + b"a" * 8192 + b"\r\n") * 60,
    "less than promised": HEAD + b"Content-Length: 100000\r\n\r\nabc",
    "more than promised": HEAD + b"Content-Length: 3\r\n\r\nabcGET /nothing",
    "too much promised": HEAD + b"Content-Length: 99999999999999\r\n\r\n" + b"a" * 300_000,
    "nothing": b"",
}


@pytest.mark.parametrize("words", SPOKEN.values(), ids=SPOKEN)
def test_no_way_to_speak_breaks_the_server(address: str, words: bytes) -> None:
    started = time.monotonic()
    assert b" 500 " not in spoken(address, words, silence=2).partition(b"\r\n")[0]
    assert time.monotonic() - started < PATIENCE
    good = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(png()) + png()
    assert spoken(address, good).startswith(b"HTTP/1.1 200")


def spoken(address: str, words: bytes, silence: float = PATIENCE) -> bytes:
    """All that the server says to these bytes, until it hangs up or has been silent for so many seconds."""
    parts, heard = urlsplit(address), b""
    with socket.create_connection((parts.hostname, parts.port), timeout=silence) as connection:
        try:
            connection.sendall(words)
            while piece := connection.recv(65536):
                heard += piece
        except OSError:  # silence, or hung up in mid-sentence
            pass
    return heard


def test_a_body_that_never_arrives_is_not_waited_for(address: str) -> None:
    heard = spoken(address, HEAD + b"Content-Length: 1000\r\n\r\nabc")
    assert heard.startswith(b"HTTP/1.1 408") and b"did not arrive within 1 s" in heard


def test_who_asks_first_need_not_send_what_is_too_much(address: str) -> None:
    heard = spoken(address, HEAD + b"Expect: 100-continue\r\nContent-Length: 350000\r\n\r\n")
    assert heard.startswith(b"HTTP/1.1 413") and b"more than 0.2 MB" in heard


def test_who_sends_too_much_hears_why(address: str) -> None:
    words = HEAD + b"Connection: close\r\nContent-Length: 350000\r\n\r\n" + b"a" * 350_000
    assert spoken(address, words).startswith(b"HTTP/1.1 413")
