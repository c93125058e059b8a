"""Great Expectations on the image manifest: is this fit to train on, and if not, which file and why.

Great Expectations takes ten seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.settings import Dataset

if TYPE_CHECKING:
    import pandas as pd

MIN_SIDE = 32  # pixels; below it there is no grid of codes to speak of
BRIGHTNESS = (0.01, 0.99)  # a covered lens, a lamp in the picture
DEEP_BRIGHTNESS = (0.01 / 16, 0.99)  # 12-bit cameras fill a sixteenth of 16 bits
PARTS = ("train", "val", "calib", "test", "known")
NAME = "images"
COMPLETE = {"result_format": "COMPLETE", "unexpected_index_column_names": ["path"]}


@dataclass(frozen=True)
class Expectation:
    """One rule on one column, and the reason that a person reads when a file breaks it."""

    kind: str  # the Great Expectations class
    column: str
    reason: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationReport:
    """The verdict on a manifest; `failures` has one (path, reason) for each rule that a file breaks."""

    success: bool
    failures: list[tuple[str, str]]
    statistics: dict[str, Any]  # expectations evaluated and successful, images
    docs: Path | None = None  # index.html of the Data Docs


def expectations(dataset: Dataset, ranges: Mapping[str, tuple[float, float]] | None = None) -> list[Expectation]:
    """The rules for a manifest with the columns added by `_judged`; `ranges` bounds further columns."""
    limit = dataset.max_megapixels
    values, between = "ExpectColumnValuesToBeInSet", "ExpectColumnValuesToBeBetween"
    rules = [
        Expectation(values, "error", "cannot be used", {"value_set": [""]}),
        Expectation(between, "width", f"is narrower than {MIN_SIDE} pixels", {"min_value": MIN_SIDE}),
        Expectation(between, "height", f"is lower than {MIN_SIDE} pixels", {"min_value": MIN_SIDE}),
        Expectation(between, "megapixels", f"is above {limit:g} megapixels", {"max_value": limit}),
        Expectation(values, "channels", "has neither 1, 3 nor 4 channels", {"value_set": [1, 3, 4]}),
        Expectation(values, "bit_depth", "has neither 8 nor 16 bits", {"value_set": [8, 16]}),
        Expectation(values, "twin", "holds the same bytes as", {"value_set": [""]}),
        Expectation(values, "exposure", "is black or white all over", {"value_set": ["normal"]}),
        Expectation(values, "label", "is labelled neither normal (0) nor defective (1)", {"value_set": [0, 1]}),
        Expectation(values, "part", f"is in no known part ({', '.join(PARTS)})", {"value_set": list(PARTS)}),
    ]
    for column, (low, high) in (ranges or {}).items():
        reason = f"has a {column} outside of the category's {low:.4g} to {high:.4g}"
        rules.append(Expectation(between, column, reason, {"min_value": low, "max_value": high}))
    return rules


def validate(
    manifest: pd.DataFrame, dataset: Dataset, docs_dir: Path | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> ValidationReport:  # fmt: skip
    """Check every image of `manifest`; keep the result as Data Docs in `docs_dir` when it is given.

    `ranges` maps a measured column of the manifest, such as brightness or sharpness, to the least and the
    greatest value allowed; KeyError for a column that the manifest lacks. Nothing is raised for a bad image:
    the report says which and why. A file that cannot be read breaks that one rule only.
    """
    rules = expectations(dataset, ranges)
    judged = _judged(manifest)
    for rule in rules:
        judged[rule.column]
    result = _run(judged, rules, docs_dir)
    said = manifest.set_index("path")["error"]
    twins = judged.set_index("path")["twin"]
    failures: list[tuple[str, str]] = []
    for outcome in result.results:
        if outcome.exception_info.get("raised_exception"):
            raise RuntimeError(f"Great Expectations failed: {outcome.exception_info['exception_message']}")
        rule = rules[outcome.expectation_config.meta["rule"]]
        for row in outcome.result.get("unexpected_index_list") or []:
            path = str(row["path"])
            detail = {"error": said, "twin": twins}.get(rule.column)
            reason = rule.reason if detail is None else str(detail[path])
            failures.append((path, f"{rule.reason} {reason}" if rule.column == "twin" else reason))
    statistics = {**result.statistics, "images": len(manifest)}
    docs = docs_dir / "index.html" if docs_dir else None
    return ValidationReport(bool(result.success), sorted(failures), statistics, docs)


def _judged(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with the columns that rules need: megapixels, exposure, twin.

    What was measured of an unreadable file is set to null, which Great Expectations passes over.
    """
    from components.dataset.manifest import twins_of

    pairs = twins_of(manifest)
    twins = dict(pairs) | {test: train for train, test in pairs}
    low = manifest["bit_depth"].map(lambda bits: (DEEP_BRIGHTNESS if bits > 8 else BRIGHTNESS)[0])
    normal = (manifest["brightness"] >= low) & (manifest["brightness"] <= BRIGHTNESS[1])
    judged = manifest.assign(
        megapixels=manifest["width"] * manifest["height"] / 1e6,
        exposure=normal.map({True: "normal", False: "abnormal"}),
        twin=[twins.get(path, "") for path in manifest["path"]],
    )
    for column in ("width", "height", "megapixels", "channels", "bit_depth", "brightness", "sharpness", "exposure"):
        judged[column] = judged[column].where(manifest["error"] == "")
    return judged


def _run(judged: pd.DataFrame, rules: list[Expectation], docs_dir: Path | None) -> Any:
    """One checkpoint over the data frame in a context that lives in memory; returns its only result."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
        from great_expectations.checkpoint.actions import UpdateDataDocsAction
        from great_expectations.data_context.types.base import ProgressBarsConfig

        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        frame = context.data_sources.add_pandas(NAME).add_dataframe_asset(NAME)
        suite = context.suites.add(gx.ExpectationSuite(NAME))
        for number, rule in enumerate(rules):
            kind = getattr(gx.expectations, rule.kind)
            suite.add_expectation(kind(column=rule.column, notes=rule.reason, meta={"rule": number}, **rule.options))
        definition = gx.ValidationDefinition(
            name=NAME, data=frame.add_batch_definition_whole_dataframe("all"), suite=suite
        )
        actions: list[Any] = []
        if docs_dir is not None:
            docs_dir.mkdir(parents=True, exist_ok=True)
            context.add_data_docs_site(NAME, _site(docs_dir))
            actions.append(UpdateDataDocsAction(name=NAME, site_names=[NAME]))
        checkpoint = gx.Checkpoint(
            name=NAME, validation_definitions=[context.validation_definitions.add(definition)],
            actions=actions, result_format=COMPLETE,
        )  # fmt: skip
        outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": judged})
    return next(iter(outcome.run_results.values()))


def _site(docs_dir: Path) -> Any:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs_dir.resolve())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
