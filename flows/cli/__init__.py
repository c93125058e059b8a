"""The `kintsugi` command: one line for an error, a table or pure JSON for an answer."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

import flows.environment  # noqa: F401  first: sets what the libraries read when they are imported
from components.errors import UserError
from flows.cli import compare, data, failures, models, plant, running, servers

INTERRUPTED = 130  # what shells expect of a command that Ctrl-C ended

app = typer.Typer(
    name="kintsugi",
    help="Unsupervised visual defect detection: learns what normal looks like, shows what is not.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kintsugi {version('kintsugi')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself; see the commands for the work."""


for theme in (data, plant, running, compare, models, servers):
    theme.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    try:
        code = app(arguments, standalone_mode=False)
    except UserError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped", INTERRUPTED)
    except Exception as error:
        # A usage error: Typer carries its own copy of Click, whose place differs between versions.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            _fail(f"{error.format_message()} (see `kintsugi --help`)", error.exit_code)
        line = failures.told(error)
        if line is None:
            raise
        if os.environ.get(failures.DEBUG):
            traceback.print_exc()
        _fail(line, 1)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"kintsugi: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
