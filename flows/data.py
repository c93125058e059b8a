"""Bringing images in: importer, Great Expectations, params.yaml, and a new version of data/.

The order makes a crash harmless: a category is validated before it is put in place, is in place before
params.yaml names it, `dvc add` can be repeated at any time, and the validation's result is kept when there is a
version that it is of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from components import settings
from components.dataset import importers
from components.dataset.importers import ImportReport
from components.dataset.sample import CATEGORY as SAMPLE
from components.dataset.staging import check_name
from components.errors import UserError
from flows import params as parameters
from flows import validated
from flows.ingest import journal

IMPORTERS: dict[str, Callable[..., ImportReport]] = {
    "mvtec": importers.import_mvtec,
    "btad": importers.import_btad,
    "magnetic-tile": importers.import_magnetic_tile,
    "folder": importers.import_folder,
}
KNOWN = "known"
OPTIONS = {
    "mvtec": (), "btad": (), "magnetic-tile": ("train_list",), "folder": ("defects", "masks"), KNOWN: ("masks",),
}  # fmt: skip


def import_category(
    root: Path, kind: str, source: Path, category: str, policy: str | None = None, replace: bool = False,
    **options: Path,
) -> ImportReport:  # fmt: skip
    """Import `source` as data/<category>, name it in params.yaml and version data/.

    kind: mvtec | btad | magnetic-tile | folder | known. options: `train_list` for magnetic-tile, `defects` and
    `masks` for folder, `masks` for known, which adds known defects to a category that is there. The Data Docs are
    kept in audit/data/<category>/. Raises UserError, and leaves data/ and params.yaml as they were, for whatever the
    importer or Great Expectations refuses, and while the category is being retrained.
    """
    if kind not in OPTIONS:
        raise UserError(f"'{kind}' is no kind of data set; use one of {', '.join(OPTIONS)}")
    given = [*options, "policy"] if policy is not None and kind == KNOWN else options
    for name in given:
        if name not in OPTIONS[kind]:
            raise UserError(f"--{name.replace('_', '-')} does not go with '{kind}'; leave it out")
    check_name(category)
    if kind == KNOWN:
        return _import_known(root, source, category, replace, **options)
    dataset = dataset_settings(root, category)

    def run(validate: Callable[[pd.DataFrame], None]) -> ImportReport:
        importer = IMPORTERS[kind]
        return importer(
            source, root / "data", category, dataset, policy=policy, replace=replace, validate=validate, **options
        )

    return _bring_in(root, category, dataset, run, policy)


def add_sample(root: Path, replace: bool = False) -> ImportReport:
    """Make the built-in category `brick`, unless it is there: what was added to it since is kept."""
    dataset = dataset_settings(root, SAMPLE)
    if (root / "data" / SAMPLE).is_dir() and not replace:
        register(root, SAMPLE, "texture")
        version(root)
        counts = importers.count_images(root / "data" / SAMPLE)
        return ImportReport(SAMPLE, effective_policy(root, SAMPLE), counts, ("it was there already",))

    def run(validate: Callable[[pd.DataFrame], None]) -> ImportReport:
        return importers.import_sample(root / "data", dataset, replace=replace, validate=validate)

    return _bring_in(root, SAMPLE, dataset, run)


def _import_known(root: Path, source: Path, category: str, replace: bool, masks: Path | None = None) -> ImportReport:
    dataset = settings.load(root, category).dataset  # UserError for a category that params.yaml does not name

    def run(validate: Callable[[pd.DataFrame], None]) -> ImportReport:
        return importers.import_known(
            source, root / "data", category, dataset, masks=masks, replace=replace, validate=validate
        )

    return _bring_in(root, category, dataset, run, known=True)


def _bring_in(
    root: Path, category: str, dataset: settings.Dataset, run: Callable[[Callable[[pd.DataFrame], None]], ImportReport],
    policy: str | None = None, known: bool = False,
) -> ImportReport:  # fmt: skip
    _check_repository(root, category)
    result: dict[str, Any] = {}
    # From the start: a training that began meanwhile would have to be told so after minutes of copying.
    with journal.standing_still(root, category, "import them when it has ended"):
        report = run(lambda manifest: result.update(validate_manifest(root, category, manifest, dataset)))
        if not known:
            register(root, category, report.policy, force_policy=policy is not None)
        version(root)
        validated.keep(root, category, result)
    return dataclasses.replace(report, policy=effective_policy(root, category))


def validate_manifest(root: Path, category: str, manifest: pd.DataFrame, dataset: settings.Dataset) -> dict[str, Any]:
    """Run Great Expectations and keep its Data Docs; return what it found. UserError names the first bad files."""
    from flows.adapters import validation

    report = validation.validate(manifest, dataset, validated.folder(root, category))
    if not report.success:
        shown = "; ".join(f"{path} {reason}" for path, reason in report.failures[:3])
        more = f"; and {len(report.failures) - 3} more" if len(report.failures) > 3 else ""
        raise UserError(f"Great Expectations refused {category}: {shown}{more}; see {report.docs}")
    return {"success": report.success, "statistics": report.statistics, "failures": report.failures}


def dataset_settings(root: Path, category: str) -> settings.Dataset:
    """The `dataset` settings of a category that params.yaml may not name yet."""
    params = settings.read_params(root)
    if category in (params["categories"] or []):
        return settings.load(root, category).dataset
    return settings.load_dataset(root)


def effective_policy(root: Path, category: str) -> str:
    """The augmentation policy that the category's settings resolve to."""
    return settings.load(root, category).augment.policy


def register(root: Path, category: str, policy: str, force_policy: bool = False) -> None:
    """Name `category` in params.yaml, with an overrides block that has every section.

    dvc.yaml refers to each section, so each must exist. What is there stays, comments included; the policy
    is written for a new category, or when `force_policy` says that a person asked for it.
    """
    settings.read_params(root)

    def change(params: Any) -> None:
        if params["categories"] is None:
            params["categories"] = []
        if params["overrides"] is None:
            params["overrides"] = {}
        before = category in params["categories"] and category in params["overrides"]
        if category not in params["categories"]:
            params["categories"].append(category)
        block = params["overrides"].setdefault(category, {}) or {}
        params["overrides"][category] = block
        for section in settings.SECTIONS:
            if block.get(section) is None:
                block[section] = _flow_map()
        if force_policy or not before:
            block["augment"]["policy"] = policy

    parameters.edit(root, change)


def version(root: Path) -> str:
    """`dvc add data`; returns the md5 of the folder."""
    from flows.adapters import versioning

    return versioning.add_data(root)


def _check_repository(root: Path, coming: str) -> None:
    from flows.adapters import versioning

    # Before minutes of copying, not after.
    versioning.check(root)
    versioning.check_complete(root, coming)


def _flow_map() -> Any:
    from ruamel.yaml.comments import CommentedMap

    empty = CommentedMap()
    empty.fa.set_flow_style()
    return empty
