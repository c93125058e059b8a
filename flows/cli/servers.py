"""Commands about the running system: `up`, `serve` and `status`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from flows.cli.common import AsJson, Category, clean_stdout, emit, known, show, workspace


def register(app: typer.Typer) -> None:
    """Add this theme's commands."""
    app.command()(up)
    app.command()(status)
    app.command()(serve)


def up(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    prefect_port: Annotated[int, typer.Option(help="The next free port is taken if this one is not.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="The same for MLflow.")] = 5000,
) -> None:
    """Serve Prefect and MLflow with their pages, until Ctrl-C."""
    from flows.up import up as serve

    serve(workspace(), host=host, prefect_port=prefect_port, mlflow_port=mlflow_port, say=typer.echo)


def serve(
    category: Category,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    every: Annotated[float, typer.Option(help="Seconds between two looks at the champion alias.")] = 5.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Images accepted at once; more are told to come back.", envvar="KINTSUGI_QUEUE")
    ] = 64,
    wait: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds; who would wait longer is told to come back.", envvar="KINTSUGI_WAIT"),
    ] = 60.0,
    batch: Annotated[
        int, typer.Option(min=1, help="Images that go through the model together.", envvar="KINTSUGI_BATCH")
    ] = 8,
    request_mb: Annotated[
        float, typer.Option(min=0.001, help="Largest request in MB.", envvar="KINTSUGI_REQUEST_MB")
    ] = 64.0,
    megapixels: Annotated[
        float, typer.Option(min=0.001, help="Largest image in megapixels.", envvar="KINTSUGI_MEGAPIXELS")
    ] = 64.0,
) -> None:
    """Serve the category's champion: a page to look at images, and the same as an HTTP API.

    A promotion or rollback is followed without a restart. Where the environment has KINTSUGI_API_KEY, every request
    that concerns images or models must carry it.
    """
    # OpenCV reads its own limit when it is imported: a file that lies about its size stops there too.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(int(max(megapixels, 1) * 1e6)))
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import serving

    limits = serving.Limits(
        images=min(serving.Limits.images, queue),
        queue=queue,
        wait=wait,
        batch=batch,
        request_mb=request_mb,
        buffer_mb=max(4 * request_mb, 1),
        megapixels=megapixels,
    )
    typer.echo(f"the inspection page: http://{host}:{port}/  the API: http://{host}:{port}/docs")
    serving.serve(root, category, host, port, every, limits, os.environ.get("KINTSUGI_API_KEY"))


def status(as_json: AsJson = False) -> None:
    """Say what is fresh or stale, which version serves, which waits, and when each category last ran."""
    root = workspace()
    with clean_stdout():
        from flows.status import status as collect

        categories = collect(root)
    if as_json:
        emit(categories)
        return
    show("categories", ["category", "serving", "waiting", "last run", "stages"],
         [(c.category, c.champion, c.waiting, c.last_run, c.summary) for c in categories])  # fmt: skip
    stale = [(c.category, s.stage, s.reason) for c in categories for s in c.stages if not s.fresh]
    if stale:
        show("what `kintsugi run` would do", ["category", "stage", "why"], stale)
