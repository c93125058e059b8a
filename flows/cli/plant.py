"""Commands of a plant's day: `ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import AsJson, clean_stdout, emit, known, show, workspace

if TYPE_CHECKING:
    from flows.ingest import IngestReport

DECISIONS = ("held", "quarantined", "duplicates", "left")


def register(app: typer.Typer) -> None:
    """Add this theme's commands."""
    app.command()(ingest)


def ingest(
    category: Annotated[str, typer.Option("--category", "-c", help="The category that the images join.")],
    landing: Annotated[
        str | None,
        typer.Argument(
            metavar="[LANDING]", help="Folder or address (s3://...); that of settings/plant.yaml by default."
        ),
    ] = None,
    branch: Annotated[str | None, typer.Option(help="Branch that gets the commit of data.dvc.")] = None,
    release: Annotated[list[Path] | None, typer.Option("--release", help="A held image to let in after all.")] = None,
    by: Annotated[str, typer.Option("--by", help="Who releases it.")] = "",
    why: Annotated[str, typer.Option("--why", help="Why it is normal.")] = "",
    as_json: AsJson = False,
) -> None:
    """Take new normal images in: the good join the training set, all others are set aside with the reason."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import ingest as work

        if release:
            report = work.release(root, category, release, by, why, branch=branch)
        else:
            report = work.ingest(root, category, landing, branch=branch)
    if as_json:
        emit(report)
    else:
        _tell(report)


def _tell(report: IngestReport) -> None:
    aside = [(word, fate.name, "; ".join(fate.reasons), fate.target if word != "left" else "")
             for word in DECISIONS for fate in getattr(report, word)]  # fmt: skip
    if aside:
        show(f"{report.category}: set aside", ["what", "file", "why", "where"], aside)
    typer.echo(f"{len(report.accepted)} new images in data/{report.category}/train/good, {len(aside)} set aside")
    if report.unsettled:
        typer.echo(f"{report.unsettled} files may still be being written; run it again for them")
    if report.accepted and not report.model and not any(fate.by for fate in report.accepted):
        typer.echo("no model serves yet, so none looked for defects")
    if report.docs:
        typer.echo(f"validation: {report.docs}")
