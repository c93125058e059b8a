"""What every command shares: the workspace, clean standard output, tables and JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Category = Annotated[str, typer.Argument(metavar="CATEGORY", help="A category of params.yaml.")]
Recorded = Annotated[
    str, typer.Argument(metavar="CATEGORY", help="A category of params.yaml, or a former one that the registry knows.")
]
By = Annotated[str, typer.Option("--by", help="Who decides: the name that goes on the record.")]
Why = Annotated[str, typer.Option("--why", help="Why: the reason that goes on the record.")]


def workspace() -> Path:
    """Return the workspace's folder, with Prefect and MLflow pointed at it; UserError outside of one."""
    from components.settings import find_root
    from flows import environment

    root = find_root()
    environment.prepare(root)
    return root


def known(root: Path, category: str, recorded: bool = False) -> str:
    """Return `category` if params.yaml has it, or, with `recorded`, the registry; UserError offers the nearest."""
    from components.errors import UserError
    from components.settings import read_params
    from flows.outcome import nearest

    names = [str(name) for name in read_params(root)["categories"] or []]
    if recorded and category not in names:
        names += _registered(root)
    if category not in names:
        raise UserError(f"unknown category '{category}'{nearest(category, names)}")
    return category


def _registered(root: Path) -> list[str]:
    with clean_stdout():
        from flows.adapters import registry, tracking

        return registry.categories(tracking.connect(root)) if tracking.has_store(root) else []


@contextlib.contextmanager
def clean_stdout() -> Iterator[None]:
    """Send what libraries print to standard error: standard output is for the command's answer."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def emit(value: Any) -> None:
    """Print `value` as JSON."""
    from flows.outcome import plain

    typer.echo(json.dumps(plain(value), indent=2))


def console() -> Console:
    """Return a console on standard output; piped output is not cut at a terminal's width."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row))
    console().print(table)


def show_records(title: str, records: Any) -> None:
    """Print a list of equal mappings, or a pandas table, with its keys as columns."""
    from flows.outcome import plain

    rows: list[Mapping[str, Any]] = plain(records)
    if not rows:
        typer.echo(f"{title}: none")
        return
    show(title, list(rows[0]), [list(row.values()) for row in rows])


def cell(value: Any) -> str:
    """Return a value as a table shows it: four significant digits, yes and no, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
