"""The audit: from the serving version back to the images, every link looked at anew and every byte re-hashed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from flows import fixity, holdings, judge, lineage, recheck, record, transaction
from flows.adapters import git, registry, served, tracking
from flows.adapters.registry import CHAMPION
from flows.holdings import some
from flows.lineage import State
from flows.trail import DIFFERS, MISSING, VERIFIED, AuditReport, Link, compared

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SIGNATURE = ("by", "why", "when")  # of a promotion, on the record and among the version's tags


def audit(root: Path, category: str, version: str | None = None) -> AuditReport:
    """Walk version → run → snapshot → dvc.lock → data → stages → package → gates → record.

    `version` is a production version (default: the champion, or the newest in staging where nothing was
    promoted), or `staging/N`. A promotion that a dead process left half way is settled first. Raises
    UserError when the category has no version at all.
    """
    client = tracking.connect(root)
    with record.exclusive(root, category, wait=60):
        settled = transaction.repair(client, root, category)
    found = registry.resolve(client, category, version)
    history = record.history(client, root, category)
    lock = lineage.committed(root, found.tags.get("snapshot.sha", ""), "dvc.lock")
    state = lineage.parse_lock(lock, category) if lock else None
    links = [
        *_registry_links(client, found),
        *_snapshot_links(root, found, lock, state),
        *_manifest_links(found),
        *(holdings.links(root, found.tags, state) if state else _no_lock(found)),
        *_package_links(client, found, state),
        *_card_links(found),
        *_gate_links(root, found, state),
        *_record_links(client, found, category, history),
    ]
    return AuditReport(
        category=category,
        version=f"{found.name} version {found.version}",
        links=tuple(links),
        lineage={**found.tags, "run": str(found.run_id)},
        images=_images(found),
        stages=[{"stage": s, "md5": m} for s, m in (state.outs.items() if state else ())],
        gates=judge.kept_table(found).rows(),
        history=[{str(k): str(v) for k, v in row.items()} for row in history.to_dict("records")],
        served=record.served(history),
        approver=_approver(found, history),
        settled=tuple(settled),
    )


def _registry_links(client: MlflowClient, found: ModelVersion) -> Iterator[Link]:
    from mlflow.exceptions import MlflowException

    identity = found.tags.get("identity", "")
    if found.name.startswith("production."):
        name = found.name.replace("production.", "staging.", 1)
        original = registry.get(client, name, registry.origin(found))
        detail = f"copied from {name} version {registry.origin(found)}"
        yield compared("staging version", identity, original.tags.get("identity") if original else None, detail)
    try:
        run = client.get_run(str(found.run_id))
    except MlflowException:
        yield Link("run", identity, "", MISSING, f"run {found.run_id} is gone")
        return
    yield compared("run", identity, run.data.tags.get("identity"), f"run {found.run_id}, {run.info.status}")


def _snapshot_links(root: Path, found: ModelVersion, lock: str | None, state: State | None) -> Iterator[Link]:
    tags = found.tags
    sha = tags.get("snapshot.sha", "")
    try:
        commit = git.git(root, "rev-parse", "--verify", "-q", f"{sha}^{{commit}}") if sha else None
    except UserError:
        commit = None
    yield compared("snapshot", sha, commit, "" if commit else "fetch refs/exps from where it was made")
    settings = tags.get("settings.file", "")
    files = {"dvc.lock": "dvc_lock.sha256", "params.yaml": "params.sha256", settings: "settings.sha256"}
    for name, key in files.items():
        text = lineage.committed(root, sha, name) if name else None
        yield compared(name or "settings", tags.get(key, ""), fixity.text_sha256(text) if text else None, "sha256")
    if lock and state:
        yield compared("state of the category", tags.get("identity", ""), state.identity, "its part of dvc.lock")
        for stage, md5 in state.outs.items():
            if tags.get(f"stage.{stage}.md5") != md5:
                yield Link(f"record of {stage}", tags.get(f"stage.{stage}.md5", ""), md5, DIFFERS, "tag, dvc.lock")
        if not state.one_data:
            evaluated = state.input_md5("evaluate", f"data/{state.category}")
            yield Link("images evaluated", state.data_md5, evaluated, DIFFERS, "md5 that augment, evaluate recorded")
    data = lineage.committed(root, sha, "data.dvc")
    recorded = lineage.data_md5_in(data) if data else None
    yield compared("data.dvc", tags.get("data.all_md5", ""), recorded, "md5 of all of data/")


def _no_lock(found: ModelVersion) -> Iterator[Link]:
    for key, name in (("data.md5", "data"), ("stage.package.md5", "stage package")):
        yield Link(name, found.tags.get(key, ""), "", MISSING, "the snapshot has no dvc.lock to go by")


def _manifest_links(found: ModelVersion) -> Iterator[Link]:
    text = _artifact(found, "data/manifest.csv")
    digest = fixity.text_sha256(text) if text else None
    yield compared("image manifest", found.tags.get("manifest.sha256", ""), digest, "sha256, as stored in MLflow")


def _package_links(client: MlflowClient, found: ModelVersion, state: State | None) -> Iterator[Link]:
    from mlflow.exceptions import MlflowException

    listed = _artifact(found, "lineage/model_files.json")
    digest = fixity.text_sha256(listed) if listed else None
    yield compared("list of the model's files", found.tags.get("model.sha256", ""), digest, "sha256")
    try:
        folder = Path(registry.download(client, found))
    except (MlflowException, OSError) as error:
        yield Link("stored model", "", "", MISSING, " ".join(str(error).split()))
        return
    expected = json.loads(listed) if listed and digest == found.tags.get("model.sha256") else {}
    phrases = fixity.differences(expected, served.files_in(folder)) if expected else ["no list to go by"]
    told = some(phrases) if phrases else f"{len(expected)} files re-hashed in {folder}"
    yield Link(
        "stored model",
        f"{len(expected)} files",
        f"{len(phrases)} not as listed",
        DIFFERS if phrases else VERIFIED,
        told,
    )
    md5 = state.outs.get("package", "") if state else found.tags.get("stage.package.md5", "")
    stored = served.package_in(folder)
    found_md5 = fixity.listing_md5(fixity.listing(stored)) if stored.is_dir() else None
    yield compared("stored package", md5, found_md5, some([p for p in phrases if "package/" in p]))


def _card_links(found: ModelVersion) -> Iterator[Link]:
    if "card.sha256" in found.tags:  # versions from before there were cards have none
        text = _artifact(found, "model_card.md")
        digest = fixity.text_sha256(text) if text else None
        yield compared("model card", found.tags["card.sha256"], digest, "sha256")


def _gate_links(root: Path, found: ModelVersion, state: State | None) -> Iterator[Link]:
    table = judge.kept_table(found)
    digest = table.digest if table.checks else None
    verdict = f"{len(table.checks)} checks, {len(table.failed)} failed"
    yield compared("gate table", found.tags.get("gates.digest", ""), digest, verdict)
    if found.name.startswith("production."):  # by the table itself: the tag with the verdict was copied from staging
        names = ", ".join(c.name for c in table.failed)
        yield compared("gate verdict", "pass", "pass" if table.passed else "fail", names)
    if state:
        yield from recheck.links(root, found, state, table)


def _record_links(client: MlflowClient, found: ModelVersion, category: str, history: pd.DataFrame) -> Iterator[Link]:
    if not found.name.startswith("production."):
        return  # nothing was promoted, so there is nothing on record that would have to hold
    number = str(found.version)
    signed = record.signed(history, number)
    if not signed:
        yield Link("promotion record", number, "", MISSING, "nobody signed for this version")
    else:
        by = _words(signed)
        yield compared("promotion record", found.tags.get("gates.digest", ""), signed["gate_digest"], by)
        yield compared("promoted run", str(found.run_id), signed["run_id"], f"record {signed['record']}")
        tagged = _words({key: found.tags.get(f"promoted.{key}", "") for key in SIGNATURE})
        yield compared("approver", by, tagged, "the record, and the version's tags")
    moves = history[(history["status"] == "done") & (history["kind"] != "refusal")]
    serving = registry.aliased(client, found.name, CHAMPION)
    recorded = str(moves.iloc[-1]["to_version"]) if len(moves) else None
    yield compared("champion alias", recorded or "", serving, "the last promotion or rollback on record")


def _approver(found: ModelVersion, history: pd.DataFrame) -> dict[str, str]:
    """Who signed for a production version, from the record: a tag can be rewritten without a trace."""
    signed = record.signed(history, str(found.version)) if found.name.startswith("production.") else {}
    return {key: signed[key] for key in SIGNATURE} if signed else {}


def _words(signed: Mapping[str, str]) -> str:
    by, why, when = (signed[key] for key in SIGNATURE)
    return f"{by}: {why} ({when})"


def _images(found: ModelVersion) -> list[dict[str, Any]]:
    import pandas as pd

    text = _artifact(found, "data/manifest.csv")
    if not text or fixity.text_sha256(text) != found.tags.get("manifest.sha256"):
        return []
    table = pd.read_csv(io.StringIO(text), keep_default_na=False)
    groups = table.groupby(["part", "defect"])["bytes"].agg(["size", "sum"]).reset_index()
    return [
        {"part": r["part"], "defect": r["defect"], "images": r["size"], "megabytes": round(r["sum"] / 1e6, 2)}
        for r in groups.to_dict("records")
    ]


def _artifact(found: ModelVersion, path: str) -> str | None:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.artifacts.load_text(f"runs:/{found.run_id}/{path}"))
    except (MlflowException, OSError):
        return None
