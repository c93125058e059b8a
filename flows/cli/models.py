"""Commands about versions: `promote`, `refuse`, `rollback`, `history`, `audit` and `reproduce`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import (
    AsJson,
    By,
    Category,
    Recorded,
    Why,
    clean_stdout,
    emit,
    known,
    show,
    show_records,
    workspace,
)

if TYPE_CHECKING:
    from flows.trail import AuditReport

Version = Annotated[
    str | None, typer.Option("--version", help="A production version, or staging/N; the champion by default.")
]

StagingVersion = Annotated[str | None, typer.Option("--version", help="A staging version; the latest by default.")]


def register(app: typer.Typer) -> None:
    """Add this theme's commands."""
    for command in (promote, refuse, rollback, history, audit, reproduce):
        app.command()(command)


def promote(
    category: Category,
    by: By,
    why: Why,
    version: StagingVersion = None,
    as_json: AsJson = False,
) -> None:
    """Put a staging version that passed its gates into production, on the record."""
    told = f"production.{category}@champion is now version {{}}"
    _decide(category, told, as_json, lambda do, root: do.promote(root, category, by, why, version=version, tell=_waits))


def refuse(
    category: Category,
    by: By,
    why: Why,
    version: StagingVersion = None,
    as_json: AsJson = False,
) -> None:
    """Turn a staging version down that waits for a decision, on the record."""
    told = f"staging.{category} version {{}} is turned down"
    _decide(category, told, as_json, lambda do, root: do.refuse(root, category, by, why, version=version, tell=_waits))


def rollback(category: Category, by: By, why: Why, as_json: AsJson = False) -> None:
    """Put the version that served before back into production, on the record."""
    told = f"production.{category}@champion is again version {{}}"
    _decide(category, told, as_json, lambda do, root: do.rollback(root, category, by, why, tell=_waits))


def _decide(category: str, told: str, as_json: bool, decide: Callable[[ModuleType, Path], str]) -> None:
    """Make a decision by flows.promote, which takes seconds to import, and say the version that it came to."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import promote as promotion

        version = decide(promotion, root)
    if as_json:
        emit({"category": category, "version": version})
    else:
        typer.echo(told.format(version))


def _waits(line: str) -> None:
    print(f"kintsugi: {line}", file=sys.stderr)


def history(category: Recorded, as_json: AsJson = False) -> None:
    """List every promotion, refusal and rollback of a category."""
    root = workspace()
    known(root, category, recorded=True)
    with clean_stdout():
        from flows import promote as promotion

        records = promotion.history(root, category)
    if as_json:
        emit(records)
    else:
        show_records(f"history of {category}", records)


def audit(
    category: Recorded,
    version: Version = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the whole trail as one HTML file too.")] = None,
    as_json: AsJson = False,
) -> int:
    """Walk from a version back to its images, re-hashing all of it; exit code 1 unless every link holds."""
    root = workspace()
    known(root, category, recorded=True)
    with clean_stdout():
        from flows import audit as auditing

        report = auditing.audit(root, category, version)
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(report.to_html(), encoding="utf-8")
    if as_json:
        typer.echo(report.to_json())
    else:
        _show_audit(report)
    if report.broken:
        names = ", ".join(f"{link.name} {link.status}" for link in report.broken)
        print(f"kintsugi: {report.version}: {names}", file=sys.stderr)
    return 0 if report.verified else 1


def _show_audit(report: AuditReport) -> None:
    show_records(f"images of {report.version}", report.images)
    show_records("stages", report.stages)
    show_records("gates", report.gates)
    show_records("decisions", report.history)
    show_records("what served when", report.served)
    show("links", ["link", "verdict", "detail"], [(k.name, k.status, k.detail) for k in report.links])
    if report.verified:
        typer.echo(f"{report.version}: every link verified")


def reproduce(category: Category, version: Version = None, as_json: AsJson = False) -> int:
    """Run a version again from its snapshot, in a folder of its own, and compare metrics and hashes."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows import reproduce as reproducing

        result = reproducing.reproduce(root, category, version)
    if as_json:
        emit({"reproduced": result.reproduced, "identical": result.identical, **vars(result)})
    else:
        show_records(f"{result.version} from snapshot {result.snapshot[:12]}", result.lines)
        same = "byte for byte" if result.identical else "within the limits, not byte for byte"
        typer.echo(f"reproduced {same}" if result.reproduced else "not reproduced")
    return 0 if result.reproduced else 1
