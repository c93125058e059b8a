"""Publication: the finished stages of one category become a run, a staging version and a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import settings
from components.stage import read_json
from flows import card, fixity, judge, lineage, promote, record, transaction
from flows.adapters import registry, served, tracking
from flows.adapters.registry import CHAMPION
from flows.gates import GateTable
from flows.lineage import State
from flows.report import with_lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

LOCK_PATIENCE = 600.0  # seconds; a publication waits for a promotion under way rather than failing a long run
GATES = "gates"  # who signs what the gates decide on their own


@dataclass(frozen=True)
class Publication:
    """What became of a run.

    status: promoted (it serves), waiting (for `kintsugi promote`), refused (by the gates), turned down (by
    a person), rolled back, or superseded (it served once).
    """

    category: str
    version: str  # in staging.<category>
    run_id: str
    status: str
    production_version: str  # in production.<category>, empty when it never served
    champion: str  # production version that serves now, empty for none
    new: bool  # False: this very state was published before
    gates: GateTable
    basis: str  # where the gates' numbers come from

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return self.gates.passed

    @property
    def promoted(self) -> bool:
        """Whether this version serves."""
        return self.status == "promoted"

    @property
    def message(self) -> str:
        """One line for the terminal."""
        name = f"staging.{self.category} version {self.version}"
        fate = {
            "promoted": f"serves as production.{self.category} version {self.production_version}",
            "waiting": f"passed its gates and waits for `kintsugi promote {self.category}`",
            "refused": f"was refused: {', '.join(c.name for c in self.gates.failed)}",
        }.get(self.status, f"was {self.status}; version {self.champion} serves")
        return f"{name} {fate}" + ("" if self.new else " (unchanged since it was published)")


def publish(
    root: Path,
    category: str,
    prefect_run_id: str | None = None,
    validation: Mapping[str, Any] | None = None,
) -> Publication:
    """Log, register, gate and, where the policy says `auto`, promote the category's present state.

    Publishing the same state again returns the version it has; a publication that was interrupted goes on
    where it stopped. `validation` is the Great Expectations result as a JSON-able mapping. Raises UserError
    when the stages have not all run or their outputs are not what dvc.lock records.
    """
    state = lineage.read_state(root, category)
    resolved = settings.load(root, category)
    with record.exclusive(root, category, wait=LOCK_PATIENCE):
        client = tracking.connect(root)
        transaction.repair(client, root, category)
        name = registry.staging(category)
        version = registry.by_identity(client, name, state.identity)
        new = version is None
        if version is None:
            version = _register(client, root, state, resolved, prefect_run_id, validation)
        if version.tags.get("promotion", "") in ("", "waiting", "refused"):
            _decide(client, root, version, resolved.promotion.policy)
        return _publication(client, category, str(version.version), new)


def _register(
    client: MlflowClient,
    root: Path,
    state: State,
    resolved: settings.Settings,
    prefect_run_id: str | None,
    validation: Mapping[str, Any] | None,
) -> ModelVersion:
    category = state.category
    package_md5 = lineage.package_md5(root, state)
    artifacts = root / "artifacts" / category
    evaluated_on = str(read_json(artifacts / "evaluate" / "metrics.json").get("evaluated_on", "test"))
    tags = lineage.collect(root, state, evaluated_on, prefect_run_id, validation)
    experiment = tracking.experiment(client, root, f"kintsugi/{category}")
    for half in tracking.search_runs(client, experiment, f"tags.identity = '{state.identity}'"):
        client.delete_run(half.info.run_id)  # an interrupted publication of this state: it has no version
    run = client.create_run(experiment, tags=tags, run_name=f"{category} {state.identity[:8]}")
    run_id = str(run.info.run_id)
    texts = lineage.texts(root, tags["snapshot.sha"], tags["settings.file"])
    files = tracking.Files(artifacts, state.data_md5, asdict(resolved), texts)
    tracking.log_stages(client, run_id, category, files)
    page = artifacts / "evaluate" / "report.html"
    if page.is_file():  # the stage knows no lineage; the run's copy of its report has it
        whole = with_lineage(page.read_text(encoding="utf-8"), {**tags, "mlflow.run_id": run_id})
        client.log_text(run_id, whole, "report.html")
    told = card.write(root, category, tags)
    client.log_text(run_id, told, "model_card.md")
    stored = served.log(root, category, run_id, package_md5, told)
    client.log_text(run_id, stored.files, "lineage/model_files.json")
    tags = {**tags, "model.sha256": stored.digest, "card.sha256": fixity.text_sha256(told)}
    client.set_tag(run_id, "model.sha256", stored.digest)
    name, described = registry.staging(category), card.description(told)
    return registry.register(client, name, stored.uri, run_id, stored.model_id, tags, described)


def _decide(client: MlflowClient, root: Path, version: ModelVersion, policy: str) -> None:
    table = judge.standing(client, root, version)
    if table is None:
        table = judge.judge(client, root, version).table
        version = _again(client, version)
    category, number = version.tags["category"], str(version.version)
    if not table.passed:
        # The record first, the mark after it: one that is there already was written by a killed publication.
        past = record.history(client, root, category)
        same = (past["staging_version"] == number) & (past["gate_digest"] == table.digest)
        if past[same & (past["by"] == GATES)].empty:
            why = f"failed {', '.join(c.name for c in table.failed) or 'for want of a check'}"
            promote.record_refusal(client, root, category, version, GATES, why, "refused by the gates")
        registry.tag(client, version.name, number, {"promotion": "refused"})
    elif policy == "auto":
        promote.carry_out(client, root, category, version, GATES, "policy auto, every gate passed")
    elif version.tags.get("promotion") != "waiting":
        registry.tag(client, version.name, number, {"promotion": "waiting"})


def _publication(client: MlflowClient, category: str, number: str, new: bool) -> Publication:
    version = promote.staged(client, category, number)
    champion = registry.aliased(client, registry.production(category), CHAMPION)
    status, serving = version.tags["promotion"], version.tags.get("production.version", "")
    if status == "promoted" and serving != champion:
        status = "superseded"
    document = judge.recorded_table(version)
    return Publication(
        category=category,
        version=number,
        run_id=str(version.run_id),
        status=status,
        production_version=serving,
        champion=champion,
        new=new,
        gates=GateTable.from_rows(document["checks"]),
        basis=str(document["basis"]),
    )


def _again(client: MlflowClient, version: ModelVersion) -> ModelVersion:
    found = registry.get(client, version.name, str(version.version))
    assert found is not None, "a version that was just judged exists"
    return found
