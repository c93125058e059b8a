"""What a browser is shown: the inspection page, the API's description, the audit of the serving version.

All of it comes from this server: a plant's network need not reach any other.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Path, Request
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment

from components.errors import UserError
from flows.serving.service import Service

FILES = FilePath(__file__).with_name("page")
FRESH = 600.0  # seconds that an audit is shown again before it is made anew


def pages(service: Service) -> APIRouter:
    """The routes for people."""
    router = APIRouter(include_in_schema=False)
    audits = Audits(service)

    @router.get("/")
    def page() -> FileResponse:
        return FileResponse(FILES / "index.html", headers={"Cache-Control": "no-cache"})

    @router.get("/docs")
    def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(described(request.app))

    @router.get("/audit/{number}")
    def audit(number: Annotated[int, Path(ge=1, le=10**9)]) -> HTMLResponse:
        try:
            return HTMLResponse(audits.page(number))
        except UserError as error:
            raise HTTPException(404, str(error)) from None

    return router


def mount(app: FastAPI) -> None:
    """Serve the page's own files under /page/."""
    app.mount("/page", StaticFiles(directory=FILES), name="page")


class Audits:
    """Audits as HTML. Each re-hashes all images, so one is made at a time and then kept for a while."""

    def __init__(self, service: Service) -> None:
        self.root, self.category = service.follower.root, service.follower.category
        self.lock = threading.Lock()
        self.made: tuple[int, float, str] = (0, -FRESH, "")

    def page(self, number: int) -> str:
        """The audit of a production version; UserError when there is none, 503 while another audit is made."""
        from flows.audit import audit

        if not self.lock.acquire(timeout=1):  # or whoever asks often enough would hold every thread there is
            raise HTTPException(503, "another audit is under way; try again in a moment", {"Retry-After": "5"})
        try:
            made, when, text = self.made
            if made != number or time.monotonic() - when > FRESH:
                text = audit(self.root, self.category, str(number)).to_html()
                self.made = (number, time.monotonic(), text)
            return text
        finally:
            self.lock.release()


def described(app: FastAPI) -> str:
    """The OpenAPI document as a page; FastAPI's own viewers are loaded from other servers."""
    schema = app.openapi()
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters["kind"] = kind
    template = environment.from_string((FILES / "api.html").read_text(encoding="utf-8"))
    return template.render(
        title=schema["info"]["title"], paths=schema["paths"], schemas=schema["components"]["schemas"]
    )


def kind(schema: dict[str, Any]) -> str:
    """What values a JSON schema allows, in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    if "properties" in schema:
        return ", ".join(f"{name}: {kind(one)}" for name, one in schema["properties"].items())
    return str(schema.get("format") or schema.get("type") or "any")
