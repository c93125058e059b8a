"""Requests that nobody should send, as hypothesis strategies, and what a server may answer to them."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from hypothesis import strategies as st

PATHS = ("/inspect", "/inspect/batch", "/inspect/picture", "/compare", "/explain")
OTHERS = (
    "/audit/x",
    "/audit/-1",
    "/audit/99999999999999999999",
    "/page/../app.py",
    "/page/%2e%2e/app.py",
    "/model",
    "//",
)
FIELDS = ("image", "images", "reference", "", "content", "image\x00", "Ünïcode", "a" * 300)
TYPES = (
    "application/octet-stream", "application/json", "application/json; charset=utf-7", "image/png", "", "text/plain",
    "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x; charset=nonsense",
    "multipart/form-data; boundary=x", "multipart/mixed; boundary=x", "application/x-www-form-urlencoded", ";;;=",
)  # fmt: skip
EXTRAS = ("", "Content-Type: image/png\r\n", "Content-Transfer-Encoding: base64\r\n", "X\r\n", f"X: {'y' * 9000}\r\n")
VALUES = ("levels", "codes", "heat", "overlay", "1e999", "-1", "true")
ALLOWED = {200, 400, 404, 405, 408, 409, 411, 413, 414, 422, 503}


@dataclass(frozen=True)
class Sent:
    """One request."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[bytes, bytes]
    body: bytes

    def wrong(self, status: int, text: str) -> str:
        """What is wrong with the server's answer to this, "" for nothing: any refusal is one line."""
        if status not in ALLOWED:
            return f"status {status}"
        if status >= 400 and text and self.method != "HEAD":
            detail = json.loads(text).get("detail") if text.startswith("{") else None
            if not isinstance(detail, str) or not detail or "\n" in detail or len(detail) > 500:
                return f"refused with {text[:200]!r}"
        return ""


def files() -> list[bytes]:
    """A small image in every format that is read, and some that are not."""
    rng = np.random.default_rng(0)
    colour, deep = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8), rng.integers(0, 65535, (9, 5)).astype(np.uint16)
    kinds = [(".png", colour), (".png", deep), (".jpg", colour), (".bmp", colour), (".tif", colour), (".tif", deep),
             (".webp", colour), (".pgm", deep), (".ppm", colour), (".jp2", np.tile(colour, (4, 3, 1)))]  # fmt: skip
    odd = [
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        b"%PDF-1.4",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n",
        b"\x80\x04\x95cos\nsystem",
    ]
    return [cv2.imencode(kind, image)[1].tobytes() for kind, image in kinds] + odd


GOOD = files()
NUMBERS = [struct.pack(order + kind, value) for order in "<>" for kind, value in (
    ("H", 0xFFFF), ("H", 0), ("I", 0xFFFFFFFF), ("I", 0x7FFFFFFF), ("I", 0), ("I", 100_000), ("B", 0xFF))]  # fmt: skip


@st.composite
def images(draw: Any) -> bytes:
    """An image file with a few bytes overwritten by telling numbers, cut, doubled or left as it is."""
    content = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(0, max(len(content) - 1, 0)) | st.integers(0, 60))
        piece = draw(st.sampled_from(NUMBERS) | st.binary(max_size=8))
        kind = draw(st.sampled_from("ocid"))
        if kind == "o":
            content[at : at + len(piece)] = piece
        elif kind == "c":
            del content[at:]
        elif kind == "i":
            content[at:at] = piece
        else:
            content += content[at : at + 200]
    return bytes(content)


def texts() -> st.SearchStrategy[str]:
    """Text with everything that hurts: controls, surrogates, right-to-left marks, paths, formulas."""
    hard = ["../../etc/passwd", "=1+1", "a" * 5000, "\ud800", "\x00", "\u202e", "CON", "<script>", "'; --", "\r\nX: y"]
    return st.sampled_from(hard) | st.text(max_size=40)


def encoded() -> st.SearchStrategy[Any]:
    """What may stand where base64 of an image should."""
    right = images().map(lambda content: base64.b64encode(content).decode())
    return right | texts() | st.none() | st.integers() | st.lists(st.integers(), max_size=3)


def grids() -> st.SearchStrategy[Any]:
    """Grids of codes, most of them of the right size (8 x 8, 16 codes)."""
    code = st.integers(0, 15) | st.sampled_from([-1, 16, 10**30, 1.5, float("nan"), None, "3"])
    return st.just([[0] * 8] * 8) | st.lists(st.lists(code, max_size=9), max_size=9) | texts()


ONE = st.fixed_dictionaries({"content": encoded()}, optional={"name": texts() | st.none()})
MANY = st.lists(ONE, max_size=4) | ONE
PLACE = st.fixed_dictionaries({
    "model": st.just("production.brick/7") | texts(), "codes": grids(), "restored": grids(),
    "row": st.integers(0, 8) | st.just(10**40), "column": st.integers(0, 8) | st.floats()})  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | texts()
ANYTHING = st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(texts(), x, max_size=3))
ASKED = {
    "/explain": PLACE,
    "/compare": st.tuples(ONE, MANY).map(lambda x: {"image": x[0], "references": x[1]}),
    "/inspect/batch": MANY.map(lambda x: {"images": x}),
}


@st.composite
def documents(draw: Any, path: str) -> bytes:
    """JSON: nearly what the path asks for, anything at all, or broken."""
    value = draw(usually(ASKED.get(path, ONE), ANYTHING))
    told = json.dumps(value).encode(draw(usually(st.just("utf-8"), st.just("utf-16"))))
    broken = st.sampled_from([told[:-1], told * 2, b"[" * 2000 + told, told + b"\x00"])
    return draw(usually(st.just(told), broken))


def usually(common: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The first four times out of five."""
    return st.integers(0, 4).flatmap(lambda n: rare if n == 4 else common)


@st.composite
def forms(draw: Any) -> tuple[bytes, str]:
    """A multipart body, whole or not, and its content type."""
    boundary = draw(st.sampled_from(["x", "-" * 70, "a b", "ü"]))
    body = b""
    for _ in range(draw(st.integers(0, 5))):
        name, filename = draw(usually(st.sampled_from(FIELDS[:3]), st.sampled_from(FIELDS))), draw(texts() | st.none())
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        extra = draw(st.sampled_from(EXTRAS))
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n{extra}\r\n"
        body += head.encode("utf-8", "replace") + draw(images()) + b"\r\n"
    body += draw(st.sampled_from([f"--{boundary}--\r\n".encode(), b"", f"--{boundary}".encode(), b"--other--"]))
    cut = draw(st.none() | st.integers(0, max(len(body), 1)))
    kind = f"multipart/form-data; boundary={boundary}".encode().decode("latin-1")
    return draw(usually(st.just(body), st.just(body[:cut]))), draw(usually(st.just(kind), st.sampled_from(TYPES)))


@st.composite
def requests(draw: Any) -> Sent:
    """A request that a server must survive."""
    somewhere = st.sampled_from(OTHERS) | texts().map(lambda text: f"/{text[:50]}")
    path = draw(usually(st.sampled_from(PATHS), somewhere))
    raw = st.tuples(images() | st.binary(max_size=200), st.sampled_from(TYPES))
    said = st.tuples(documents(path), st.just("application/json"))
    body, kind = draw(said if path == "/explain" else forms() | said | raw)
    names = st.sampled_from(["include", "name", "kind", "threshold", "levels", "x"])
    params = draw(usually(st.just({}), st.dictionaries(names, texts() | st.sampled_from(VALUES), max_size=3)))
    method = draw(usually(st.just("POST"), st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"])))
    clean = {name: value.encode("utf-8", "replace").decode() for name, value in params.items()}
    headers = {b"content-type": kind.encode("latin-1")}
    return Sent(method, quote(path.encode("utf-8", "replace")), clean, headers, body)
