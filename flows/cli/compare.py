"""Commands that weigh: `compare` and `choose`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import AsJson, Category, clean_stdout, emit, known, show, workspace

if TYPE_CHECKING:
    from flows.comparison import Compared

SHOWN = ("image_auroc", "pixel_auroc", "aupro_30", "pro", "image_balanced_accuracy", "image_f1", "pixel_f1",
         "fit_seconds", "inference_ms", "megabytes")  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this theme's commands."""
    app.command()(compare)
    app.command()(choose)


def compare(
    categories: Annotated[list[str], typer.Argument(metavar="CATEGORY...", help="Categories whose model is trained.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Methods by name, with commas between; `package`, `variants` and `baselines` name all of theirs."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Put the model, its ablations and variants, and the papers' baselines into one table."""
    root = workspace()
    for category in categories:
        known(root, category)
    wanted = [word.strip() for word in methods.split(",") if word.strip()]
    with clean_stdout():
        from flows.comparison import compare_category

        found = [compare_category(root, category, wanted) for category in dict.fromkeys(categories)]
    if as_json:
        emit(found)
        return
    for one in found:
        _show(one)


def _show(one: Compared) -> None:
    rows = [(f"{row['method']} (chosen)" if row["chosen"] else row["method"], *(row[c] for c in SHOWN))
            for row in one.rows]  # fmt: skip
    show(one.category, ["method", *SHOWN], rows)
    for row in one.rows:
        if row["note"]:
            typer.echo(f"{row['method']}: {row['note']}")
    typer.echo(f"{one.protocol}\ntable and figure: {one.folder}")


def choose(
    category: Category,
    among: Annotated[
        str, typer.Option(help="Codes of `pixels`, `patches` or `features`, with commas between; all without it.")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Train codes of pixels, patches and features up to calibration; name the best in params.yaml."""
    root = workspace()
    known(root, category)
    with clean_stdout():
        from flows.adapters.process import Cancellation, StoppedError
        from flows.latent import choose as choose_latent
        from flows.run import interruptible

        wanted = [word.strip() for word in among.split(",") if word.strip()]
        cancellation = Cancellation()
        try:
            with interruptible(cancellation):
                chosen = choose_latent(root, category, wanted, _progress, cancellation)
        except StoppedError:
            print("kintsugi: stopped; params.yaml names the codes that it named before", file=sys.stderr)
            return 130
    settings = {"latent": chosen.latent, "allocation": chosen.allocation}
    if as_json:
        emit({"category": category, "codes": chosen.codes, "before": chosen.before, "table": chosen.table} | settings)
        return 0
    show(f"{category}: AUROC on negatives painted on calibration images", list(chosen.table.columns),
         chosen.table.to_numpy().tolist())  # fmt: skip
    said = ", ".join(f"{key}: {value}" for key, value in settings.items())
    typer.echo(f"params.yaml has {said} for {category}; `kintsugi run {category}` makes its model")
    return 0


def _progress(line: str) -> None:
    print(line, file=sys.stderr)
