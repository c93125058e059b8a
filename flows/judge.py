"""Judging a version: its numbers beside the champion's, both from one test set, put through the gates."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import settings
from flows import gates, lineage
from flows.adapters import registry, served, tracking
from flows.adapters.hush import hushed
from flows.adapters.registry import CHAMPION
from flows.gates import GateTable, Limits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

TABLE = "gates/table.json"
BOTH_ANEW = "both scored anew on the present test set"  # so the numbers are not those of metrics.json
TIMED_IMAGES = 4  # per bundle, after one to warm up: seconds per image hardly vary between images


@dataclass(frozen=True)
class Judgement:
    """The gate table and what it was made against."""

    table: GateTable
    champion: str  # production version compared with, empty for none
    basis: str  # where the compared numbers come from, in words


def is_current(client: MlflowClient, root: Path, version: ModelVersion) -> bool:
    """Whether the version was judged by the present limits against the present champion."""
    category = version.tags["category"]
    limits = _limits(root, category, version.tags["evaluated_on"])
    champion = registry.aliased(client, registry.production(category), CHAMPION)
    return version.tags.get("gates.limits") == limits.digest and version.tags.get("gates.champion") == champion


def kept_table(version: ModelVersion) -> GateTable:
    """The checks as the version's run keeps them; a table without any where they are missing or not to be read."""
    from mlflow.exceptions import MlflowException

    try:
        return GateTable.from_rows(recorded_table(version)["checks"])
    except (MlflowException, OSError, ValueError, KeyError, TypeError):
        return GateTable(())  # rewritten by hand into something else; its digest will not hold either


def whole(version: ModelVersion) -> bool:
    """Whether the kept table is the one that the version's tags vouch for, and it passes.

    The table decides, never the tag `gates.verdict`: whoever may write to staging may write that.
    """
    table = kept_table(version)
    return table.passed and table.digest == version.tags.get("gates.digest")


def standing(client: MlflowClient, root: Path, version: ModelVersion) -> GateTable | None:
    """The kept table, if the version may be decided by it: the present champion and limits, the table as written."""
    if "gates.digest" not in version.tags or not is_current(client, root, version):
        return None
    table = kept_table(version)
    return table if table.digest == version.tags["gates.digest"] else None


def judge(client: MlflowClient, root: Path, version: ModelVersion) -> Judgement:
    """Put a staging version through the gates; the table goes to its run, verdict and digest to its tags."""
    category = version.tags["category"]
    limits = _limits(root, category, version.tags["evaluated_on"])
    name = registry.production(category)
    champion = registry.get(client, name, registry.aliased(client, name, CHAMPION) or "0")
    metrics = recorded_metrics(version)
    rival: dict[str, Any] | None = None
    basis = "no champion yet"
    if champion is not None:
        metrics, rival, basis = _comparable(client, root, version, champion)
        if "seconds_per_image" in limits.tolerance:
            metrics, rival = _timed(client, root, category, (version, metrics), (champion, rival))
    number = str(champion.version) if champion is not None else ""
    judgement = Judgement(gates.evaluate_gates(metrics, rival, limits), number, basis)
    _write_down(client, version, judgement, limits)
    return judgement


def recorded_metrics(version: ModelVersion) -> dict[str, Any]:
    """metrics.json as the version's run keeps it."""
    import mlflow.artifacts

    text = mlflow.artifacts.load_text(f"runs:/{version.run_id}/evaluate/metrics.json")
    return dict(json.loads(text))


def recorded_table(version: ModelVersion) -> dict[str, Any]:
    """The gate table as the version's run keeps it: `checks` (rows), `champion`, `basis`, `limits`."""
    import mlflow.artifacts

    return dict(json.loads(mlflow.artifacts.load_text(f"runs:/{version.run_id}/{TABLE}")))


def _limits(root: Path, category: str, evaluated_on: str) -> Limits:
    return gates.load_limits(served.project_file(root, "mlflow/gates.yaml"), category, evaluated_on)


def _comparable(
    client: MlflowClient, root: Path, version: ModelVersion, champion: ModelVersion
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Numbers of both from one test set: as recorded when it was the same, else scored on the present one."""
    mine = version.tags["test.identity"]
    if mine == champion.tags.get("test.identity"):
        return recorded_metrics(version), recorded_metrics(champion), "both as recorded, on the same test set"
    category = version.tags["category"]
    state = lineage.read_state(root, category)
    present = lineage.test_identity(root, state, version.tags["evaluated_on"])
    rival = _rescore(client, root, category, champion)
    if mine == present:
        return recorded_metrics(version), rival, "the champion scored anew on this version's test set"
    return _rescore(client, root, category, version), rival, BOTH_ANEW


def _rescore(client: MlflowClient, root: Path, category: str, version: ModelVersion) -> dict[str, Any]:
    from components.evaluate import evaluate_bundle

    package = served.checked_package(client, version)
    resolved = settings.load(root, category)
    manifest = tracking.read_manifest(root / "artifacts" / category)
    data = root / "data" / category
    with hushed("stdout"):  # its progress
        return dict(evaluate_bundle(package, data, manifest, resolved.evaluate, resolved.seed))


def _timed(
    client: MlflowClient,
    root: Path,
    category: str,
    one: tuple[ModelVersion, Mapping[str, Any]],
    other: tuple[ModelVersion, Mapping[str, Any] | None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Replace both latencies by ones taken in one sitting: an older number is of another machine or load."""
    packages = [served.checked_package(client, v) for v, _ in (one, other)]
    seconds = latencies(packages, root, category)
    first, second = (
        {**dict(m or {}), "seconds_per_image": s} for m, s in zip((one[1], other[1]), seconds, strict=True)
    )
    return first, second


def latencies(packages: list[Path], root: Path, category: str) -> list[float]:
    """Seconds per image of each bundle, the bundles taking turns so that a busy moment hits all of them."""
    from components.dataset.images import read_image
    from components.device import find_device
    from components.inspector import Inspector

    manifest = tracking.read_manifest(root / "artifacts" / category)
    rows = manifest[manifest["part"].isin(["test", "calib"])].head(TIMED_IMAGES)
    limit = settings.load(root, category).dataset.max_megapixels
    images = [read_image(root / "data" / category / path, limit) for path in rows["path"]]
    inspectors = [Inspector.load(p, device=str(find_device())) for p in packages]
    for inspector in inspectors:
        inspector.inspect(images[:1])  # the first pass also pays for allocations
    spent = [0.0] * len(packages)
    for image in images:
        for i, inspector in enumerate(inspectors):
            start = time.perf_counter()
            inspector.inspect([image])
            spent[i] += time.perf_counter() - start
    return [seconds / len(images) for seconds in spent]


def _write_down(client: MlflowClient, version: ModelVersion, judgement: Judgement, limits: Limits) -> None:
    table = judgement.table
    document = {
        "checks": table.rows(),
        "champion": judgement.champion,
        "basis": judgement.basis,
        "limits": limits.digest,
        "passed": table.passed,
    }
    # A tag first: whoever may not write to the run is stopped before the table that there is has been replaced.
    client.set_tag(str(version.run_id), "gates.basis", judgement.basis)
    client.log_dict(str(version.run_id), document, TABLE)
    tags = {
        "gates.verdict": "pass" if table.passed else "fail",
        "gates.failed": ", ".join(c.name for c in table.failed),
        "gates.champion": judgement.champion,
        "gates.basis": judgement.basis,
        "gates.limits": limits.digest,
        "gates.digest": table.digest,  # last: a version with this tag has a complete judgement
    }
    for key, value in tags.items():
        client.set_tag(str(version.run_id), key, value)
    registry.tag(client, version.name, str(version.version), tags)
