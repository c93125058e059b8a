"""MLflow's tracking side: where it lives, and one publication written as one run.

MLflow takes a second or two to import, so it is imported where it is used.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

SPLITS = ("train", "val", "calib", "test", "known")


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI when set, else the workspace's own sqlite database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def has_store(root: Path) -> bool:
    """Whether there is anything to ask: a server, or a database that asking would not create."""
    uri = tracking_uri(root)
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


def connect(root: Path) -> MlflowClient:
    """Point MLflow at the workspace's store (a fresh sqlite database is made on first use)."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for our JSON
    import mlflow

    for name in ("mlflow", "alembic"):  # migrations and registrations are not news to the user
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = tracking_uri(root)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if given is None:  # MLflow exports it, which another workspace of this process would take for the user's
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment(client: MlflowClient, root: Path, name: str) -> str:
    """Id of the experiment, made if need be.

    A server decides itself where artifacts go; a database used directly has them in <root>/mlartifacts.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = not tracking_uri(root).startswith(("http:", "https:", "databricks"))
    location = (root.resolve() / "mlartifacts" / name).as_uri() if local else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:  # someone else made it in between
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def search_runs(client: MlflowClient, experiment_id: str, where: str = "") -> list[Any]:
    """All runs of an experiment that match MLflow's filter, newest first."""
    runs: list[Any] = []
    token: str | None = None
    while True:
        order = ["attributes.start_time DESC"]
        page = client.search_runs([experiment_id], where, max_results=1000, order_by=order, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


@dataclass(frozen=True)
class Files:
    """The stages' output files that one run is written from."""

    artifacts: Path  # artifacts/<category>
    data_md5: str  # DVC's md5 of the category's images: 36 characters, MLflow's limit for a digest
    settings: Mapping[str, Any]  # resolved, nested
    lineage: Mapping[str, str]  # artifact path -> text (dvc.lock, params.yaml, ...)


def log_stages(client: MlflowClient, run_id: str, category: str, files: Files) -> None:
    """Write parameters, curves, metrics, tables, gallery, calibration and the splits onto the run."""
    params = dict(flatten(files.settings))
    metrics = json.loads((files.artifacts / "evaluate" / "metrics.json").read_text())
    _log_params(client, run_id, params)
    _log_metrics(client, run_id, [(k, v, 0) for k, v in metrics.items()])
    for stage in ("train_vqvae", "train_prior"):
        _log_metrics(client, run_id, _curves(files.artifacts / stage / "curves.csv", stage))
    client.set_tag(run_id, "protocol", str(metrics.get("protocol", "")))
    client.set_tag(run_id, "evaluated_on", str(metrics.get("evaluated_on", "")))
    for stage in ("evaluate", "calibrate"):
        client.log_artifacts(run_id, str(files.artifacts / stage), stage)
    for stage in ("augment", "train_vqvae", "extract_codes", "train_prior"):
        for name in ("summary.json", "curves.csv"):
            if (files.artifacts / stage / name).is_file():
                client.log_artifact(run_id, str(files.artifacts / stage / name), stage)
    client.log_artifact(run_id, str(files.artifacts / "augment" / "manifest.csv"), "data")
    for path, text in files.lineage.items():
        client.log_text(run_id, text, path)
    _log_tables(client, run_id, files.artifacts / "evaluate", metrics)
    _log_splits(client, run_id, category, files)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested mapping to (`section.key`, value) pairs."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in params.items()]
    for batch in _batches(entries, 100):  # MLflow's limit per call
        client.log_batch(run_id, params=batch)


def _log_metrics(client: MlflowClient, run_id: str, points: Iterable[tuple[str, Any, int]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    entries = [
        Metric(name, float(value), now, step)
        for name, value, step in points
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    for batch in _batches(entries, 1000):
        client.log_batch(run_id, metrics=batch)


def _curves(path: Path, stage: str) -> list[tuple[str, Any, int]]:
    if not path.is_file():
        return []
    import pandas as pd

    table = pd.read_csv(path)
    steps = [int(s) for s in table["epoch"]]
    columns = [c for c in table.columns[1:] if pd.api.types.is_numeric_dtype(table[c])]
    # A column filled every few epochs only (a validation loss) has gaps, which are not points of its curve.
    return [
        (f"{stage}/{column}", float(value), step)
        for column in columns
        for step, value in zip(steps, table[column], strict=True)
        if not math.isnan(value)
    ]


def _log_tables(client: MlflowClient, run_id: str, evaluate: Path, metrics: Mapping[str, Any]) -> None:
    import pandas as pd

    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    summary = pd.DataFrame({"metric": list(numbers), "value": [float(v) for v in numbers.values()]})
    client.log_table(run_id, summary, "tables/metrics.json")
    if (evaluate / "per_defect.csv").is_file():
        client.log_table(run_id, pd.read_csv(evaluate / "per_defect.csv"), "tables/per_defect.json")


def _log_splits(client: MlflowClient, run_id: str, category: str, files: Files) -> None:
    from mlflow.data.pandas_dataset import from_pandas
    from mlflow.entities import DatasetInput, InputTag

    table = read_manifest(files.artifacts)
    inputs = []
    for split in SPLITS:
        rows = table[table["part"] == split]
        if rows.empty:
            continue
        name, source = f"{category}-{split}", f"data/{category}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints for tables that feed a model; this one is a record
            dataset = from_pandas(rows, source=source, name=name, digest=files.data_md5)
            entity = dataset._to_mlflow_entity()
        inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", split)]))
    client.log_inputs(run_id, inputs)


def read_manifest(artifacts: Path) -> pd.DataFrame:
    """The image manifest that the augment stage split and wrote, texts without NaN."""
    import pandas as pd

    texts = {"path": str, "part": str, "defect": str, "mask": str, "sha256": str, "error": str}
    return pd.read_csv(artifacts / "augment" / "manifest.csv", dtype=texts, keep_default_na=False)


def _batches(entries: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
