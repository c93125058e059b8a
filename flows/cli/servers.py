"""Commands about the running system: `up` and `status`."""

from __future__ import annotations

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
) -> None:
    """Answer images over HTTP with the category's champion; a promotion or rollback is followed without a restart."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import serving

    typer.echo(f"POST an image file to http://{host}:{port}/inspect; the API is described at /docs")
    serving.serve(root, category, host, port, every)


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
