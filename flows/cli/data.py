"""Commands that bring images in: `sample` and `import`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import AsJson, clean_stdout, emit, show, workspace

if TYPE_CHECKING:
    from components.dataset.importers import ImportReport


class Kind(StrEnum):
    """Layouts that the importers know."""

    mvtec = "mvtec"
    btad = "btad"
    magnetic_tile = "magnetic-tile"
    folder = "folder"
    known = "known"


def register(app: typer.Typer) -> None:
    """Add this theme's commands."""
    app.command()(sample)
    app.command("import")(import_images)


def sample(as_json: AsJson = False) -> None:
    """Make the built-in category `brick`: a photograph's crops, with painted defects and exact masks."""
    root = workspace()
    with clean_stdout():
        import flows.data as data

        report = data.add_sample(root)
    _tell(report, as_json)


def import_images(
    kind: Annotated[Kind, typer.Argument(help="How the source is laid out.")],
    source: Annotated[Path, typer.Argument(metavar="PATH", help="The data set's folder.")],
    category: Annotated[str, typer.Option("--category", "-c", help="The category to fill.")],
    policy: Annotated[str | None, typer.Option(help="Augmentation: object, rotation_free or texture.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what is there.")] = False,
    defects: Annotated[Path | None, typer.Option(help="folder: images with defects, for the test set.")] = None,
    masks: Annotated[Path | None, typer.Option(help="folder, known: masks of those defects.")] = None,
    train_list: Annotated[
        Path | None, typer.Option(help="magnetic-tile: file of names that make the training set.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a category in from a folder, or known defects for its calibration; the source stays as it is."""
    root = workspace()
    given = {"defects": defects, "masks": masks, "train_list": train_list}
    options = {name: path for name, path in given.items() if path is not None}
    with clean_stdout():
        import flows.data as data

        report = data.import_category(root, kind.value, source, category, policy=policy, replace=replace, **options)
    _tell(report, as_json)


def _tell(report: ImportReport, as_json: bool) -> None:
    from flows.outcome import plain

    if as_json:
        emit(plain(report))
        return
    show(f"{report.category} ({report.policy})", ["part", "images"], list(report.counts.items()))
    for warning in report.warnings:
        typer.echo(warning)
