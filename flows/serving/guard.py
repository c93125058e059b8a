"""What stands before every route: the API key, limits on what arrives, security headers, and the count of requests."""

from __future__ import annotations

import asyncio
import secrets
import time

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.serving.limits import Limits
from flows.serving.telemetry import Telemetry

# Open without a key: what a probe or a scraper asks, and the page itself, which holds nothing of the plant.
OPEN = ("/health", "/ready", "/metrics", "/", "/docs", "/openapi.json")
OPEN_BELOW = "/page/"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # 'unsafe-inline' for styles only: the audit's page brings its own. Scripts come from this server alone.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Guard:
    """ASGI middleware. Refuses what carries no key, reads no more of a body than is allowed, counts it all."""

    def __init__(self, app: ASGIApp, limits: Limits, key: str | None, telemetry: Telemetry) -> None:
        self.app, self.limits, self.telemetry = app, limits, telemetry
        self.key = key.encode() if key else None
        self.arriving = 0  # bytes of all bodies that are being read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        body = Body(self, receive, Headers(scope=scope))
        try:
            if self._admits(scope):
                await self.app(scope, body.receive, answer)
            else:
                refusal = {"detail": "the API key is missing or wrong; send it as X-API-Key or as a bearer token"}
                await JSONResponse(refusal, 401, {"WWW-Authenticate": "Bearer"})(scope, body.receive, answer)
        finally:
            self.arriving -= body.length
            path = getattr(scope.get("route"), "path", "other")  # never the address itself: it has no bound
            self.telemetry.requests.labels(path, scope["method"] if path != "other" else "other", status).inc()
            self.telemetry.latency.labels(path).observe(time.perf_counter() - started)

    def _admits(self, scope: Scope) -> bool:
        if self.key is None or scope["path"] in OPEN or scope["path"].startswith(OPEN_BELOW):
            return True
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self.key)


class Body:
    """A request's body on its way in: 413 when it is too large, 503 when all of them are, 408 when it is too slow."""

    def __init__(self, guard: Guard, receive: Receive, headers: Headers) -> None:
        self.guard, self.source, self.length = guard, receive, 0
        stated = headers.get("content-length", "")
        self.stated = (
            int(stated) if stated.isdecimal() and len(stated) < 20 else 0
        )  # 0: not said, or not to be believed
        self.asks_first = headers.get("expect", "").lower() == "100-continue"
        self.until = asyncio.get_running_loop().time() + guard.limits.arrival
        self.whole = False

    async def receive(self) -> Message:
        """The next piece; HTTPException once a limit is passed."""
        if self.whole:  # from here on only the end of the connection can come, and that may take its time
            return await self.source()
        limits = self.guard.limits
        if self.stated <= limits.request_bytes:
            message = await self._next()
            self._count(message)
        if max(self.length, self.stated) > limits.request_bytes:
            if not self.asks_first:
                await self._discard()
            raise HTTPException(413, f"the request has more than {limits.request_mb:g} MB; send less at once")
        if self.guard.arriving > limits.buffer_bytes:
            raise HTTPException(503, "too many large requests at once; try again in a moment", {"Retry-After": "2"})
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self.until):
                return await self.source()
        except TimeoutError:
            told = f"the request did not arrive within {self.guard.limits.arrival:g} s; send it again"
            raise HTTPException(408, told, {"Connection": "close"}) from None

    def _count(self, message: Message) -> None:
        size = len(message.get("body", b""))
        self.length += size
        self.guard.arriving += size
        self.whole = message["type"] == "http.disconnect" or not message.get("more_body", False)

    async def _discard(self) -> None:
        """Read on for a while and forget it: a client that is cut off in mid-sentence never hears the reason."""
        self.guard.arriving -= self.length
        self.length, read = 0, 0
        while not self.whole and read < self.guard.limits.request_bytes:
            message = await self._next()
            read += len(message.get("body", b""))
            self.whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
