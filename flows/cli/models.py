"""Commands about versions: `promote`, `rollback`, `history` and `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.common import AsJson, By, Category, Why, clean_stdout, emit, known, show_records, workspace


def register(app: typer.Typer) -> None:
    """Add this theme's commands."""
    for command in (promote, rollback, history, audit):
        app.command()(command)


def promote(
    category: Category,
    by: By,
    why: Why,
    version: Annotated[
        str | None, typer.Option("--version", help="A staging version; the latest by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a staging version that passed its gates into production, on the record."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import promote as promotion

        done = promotion.promote(root, category, by, why, version=version)
    _tell(f"production.{category}@champion is now version", category, done, as_json)


def rollback(category: Category, by: By, why: Why, as_json: AsJson = False) -> None:
    """Put the version that served before back into production, on the record."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import promote as promotion

        done = promotion.rollback(root, category, by, why)
    _tell(f"production.{category}@champion is again version", category, done, as_json)


def _tell(sentence: str, category: str, version: str, as_json: bool) -> None:
    if as_json:
        emit({"category": category, "version": version})
    else:
        typer.echo(f"{sentence} {version}")


def history(category: Category, as_json: AsJson = False) -> None:
    """List every promotion, refusal and rollback of a category."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import promote as promotion

        records = promotion.history(root, category)
    if as_json:
        emit(records)
    else:
        show_records(f"history of {category}", records)


def audit(
    category: Category,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report as one HTML file too.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Walk from the serving version back to the images and say which links hold; 1 unless all do."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import audit as auditing

        report: Any = auditing.audit(root, category)
        if html is not None:
            html.write_text(report.as_html(), encoding="utf-8")
    if as_json:
        emit(report)
    else:
        show_records(f"audit of {category}", report.links)
    return 0 if report.verified else 1
