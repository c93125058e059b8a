"""A server that follows the alias: whoever is champion answers, from a few seconds after the promotion on.

app        the addresses                      intake    from a request to images
service    what they share                    answers   the types that go in and out
batching   requests that meet go together     telling   from an inspection to an answer
guard      key, limits, headers, counts       follower  who serves
"""

from __future__ import annotations

from pathlib import Path

from flows.serving.app import create_app
from flows.serving.follower import Follower
from flows.serving.limits import Limits

__all__ = ["Follower", "Limits", "create_app", "serve"]

CONNECTIONS = 512  # open at once; more are answered 503 by the HTTP server itself


def serve(
    root: Path, category: str, host: str, port: int, every: float, limits: Limits | None = None, key: str | None = None
) -> None:
    """Serve a category's champion until Ctrl-C; UserError at once when none serves."""
    import uvicorn

    follower = Follower(root, category)
    follower.refresh()
    app = create_app(follower, every, limits, key)
    uvicorn.run(app, host=host, port=port, log_level="warning", limit_concurrency=CONNECTIONS, server_header=False,
                timeout_graceful_shutdown=10)  # fmt: skip
