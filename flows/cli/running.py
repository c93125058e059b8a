"""Commands that compute: `run` and `inspect`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import AsJson, Category, clean_stdout, emit, known, show, workspace

if TYPE_CHECKING:
    from flows.outcome import CategoryOutcome

RESUMES = "stopped; the next run resumes from the last checkpoint"


def register(app: typer.Typer) -> None:
    """Add this theme's commands."""
    app.command()(run)
    app.command()(inspect)


def run(
    categories: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CATEGORY]...", help="Categories to bring up to date; all by default."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Train what changed, evaluate, register, judge, and promote where the policy says so."""
    from flows.adapters.process import StoppedError
    from flows.run import run as run_flow

    root = workspace()
    try:
        with clean_stdout():
            outcomes = run_flow(root, categories or ())
    except StoppedError:
        print(f"kintsugi: {RESUMES}", file=sys.stderr)
        return 130
    if as_json:
        emit([outcome.as_json() for outcome in outcomes])
    else:
        for outcome in outcomes:
            _show_outcome(outcome)
    for outcome in outcomes:
        if outcome.error:
            print(f"kintsugi: {outcome.category}: {outcome.error}", file=sys.stderr)
        elif outcome.refused:
            print(f"kintsugi: {outcome.publication.message}", file=sys.stderr)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _show_outcome(outcome: CategoryOutcome) -> None:
    rows = [(s.stage, s.state, f"{s.seconds:.1f} s", s.reason) for s in outcome.stages]
    show(outcome.category, ["stage", "outcome", "time", "why"], rows)
    publication = outcome.publication
    if publication is None:
        return
    checks = publication.gates.failed if outcome.refused else publication.gates.checks
    show(
        "the checks that refused it" if outcome.refused else "gates",
        ["check", "value", "limit", "verdict", "why"],
        [(check.name, check.value, check.limit, check.verdict, check.reason) for check in checks],
    )
    if not outcome.refused:
        typer.echo(publication.message)


def inspect(
    category: Category,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option("--out", help="Where the table, heat maps and masks go.")],
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; found by itself by default.")] = None,
    log: Annotated[
        bool, typer.Option("--log/--no-log", help="Whether drift counts them; not for test images or rejects.")
    ] = True,
    as_json: AsJson = False,
) -> int:
    """Score images with the model in production; write a CSV, heat maps and masks."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows.inspection import inspect as inspect_images

        table = inspect_images(root, category, paths, out, device=device, log=log)
    unread = table[table["error"].fillna("").astype(bool)]
    if as_json:
        emit(table)
    else:
        show(category, list(table.columns), table.to_numpy().tolist())
        defective = int((table["verdict"] == "defective").sum())
        typer.echo(f"{len(table)} images, {defective} defective, {len(unread)} not readable; see {out}")
    for row in unread.itertuples():
        print(f"kintsugi: {row.path}: {row.error}", file=sys.stderr)
    return 1 if len(unread) else 0
