"""The audit finds every link whole, and names the one that somebody broke."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.errors import UserError
from flows import judge, promote, transaction
from flows.adapters import registry, tracking
from flows.audit import audit
from flows.fixity import Objects, listing
from flows.gates import GateTable
from flows.lineage import State, read_state
from flows.publish import publish
from flows.trail import AuditReport
from tests.artifacts_fixture import Fabricator, make_workspace, set_params


@pytest.fixture(autouse=True)
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))


def flip(path: Path) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(content))


def stored(root: Path) -> Path:
    client = tracking.connect(root)
    return Path(registry.download(client, registry.resolve(client, "brick", None)))


def broken(report: AuditReport) -> dict[str, tuple[str, str]]:
    return {link.name: (link.status, link.detail) for link in report.broken}


def test_every_link_of_a_promoted_version_is_verified(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    report = audit(plant.root, "brick")
    assert report.verified, report.broken
    names = {link.name for link in report.links}
    assert {
        "staging version", "run", "snapshot", "dvc.lock", "params.yaml", "data.dvc", "image manifest", "data",
        "stage augment", "stage package", "stored model", "stored package", "gate table", "gate verdict",
        "gate checks", "promotion record",
        "approver", "champion alias",
    } <= names  # fmt: skip
    assert {k: v for k, v in report.images[-2].items() if k != "megabytes"} == {
        "part": "train",
        "defect": "good",
        "images": 6,
    }


def test_the_trail_as_json_and_as_one_page(plant: Fabricator) -> None:
    set_params(plant.root, "manual")
    publish(plant.root, "brick")
    promote.promote(plant.root, "brick", "Ada <script>", "looks right")
    report = audit(plant.root, "brick")
    told = json.loads(report.to_json())
    assert told["verified"] is True and told["served"][0]["by"] == "Ada <script>"
    page = report.to_html()
    assert "Every link verified" in page and "looks right" in page and report.lineage["data.md5"] in page
    assert "<script>" not in page and "http" not in page.replace("https://mlflow", "")


def test_a_changed_byte_of_the_stored_package_is_named(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    flip(stored(plant.root) / "artifacts" / "package" / "model.safetensors")
    report = audit(plant.root, "brick")
    assert set(broken(report)) == {"stored model", "stored package"}
    assert broken(report)["stored package"] == ("differs", "artifacts/package/model.safetensors changed")


def test_changed_serving_code_is_named(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    flip(stored(plant.root) / "model.py")
    assert broken(audit(plant.root, "brick")) == {"stored model": ("differs", "model.py changed")}


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("artifacts/brick/package/model.safetensors", "stage package"),
        ("artifacts/brick/evaluate/metrics.json", "stage evaluate"),
        ("data/brick/train/good/003.png", "data"),
        ("data/brick/ground_truth/scratch/001_mask.png", "data"),
    ],
)
def test_a_changed_byte_in_the_workspace_is_named(plant: Fabricator, path: str, link: str) -> None:
    publish(plant.root, "brick")
    flip(plant.root / path)
    status, detail = broken(audit(plant.root, "brick"))[link]
    assert status == "differs" and detail == f"{'/'.join(Path(path).parts[2 if link == 'data' else 3 :])} changed"
    assert len(broken(audit(plant.root, "brick"))) == 1


def test_a_missing_and_an_extra_image_are_named(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    good = plant.root / "data" / "brick" / "train" / "good"
    (good / "001.png").rename(good / "zzz.png")
    detail = broken(audit(plant.root, "brick"))["data"][1]
    assert detail == "train/good/001.png missing, train/good/zzz.png extra"


def test_a_version_whose_data_have_moved_on_is_verified_in_the_cache(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    plant(seed=5, images=7)  # newer images and stages, properly recorded
    report = audit(plant.root, "brick")
    assert report.verified, report.broken
    links = {link.name: link.detail for link in report.links}
    assert "DVC's cache" in links["data"] and "moved on" in links["data"]
    assert "DVC's cache" in links["stage package"]


def test_another_categorys_images_do_not_hide_a_changed_byte(plant: Fabricator) -> None:
    set_params(plant.root, "auto", ("brick", "tile"))
    publish(plant.root, "brick")
    plant("tile", seed=3, images=3)
    assert audit(plant.root, "brick").verified
    flip(plant.root / "data" / "brick" / "test" / "good" / "001.png")
    assert broken(audit(plant.root, "brick")) == {"data": ("differs", "test/good/001.png changed")}


def test_a_damaged_object_in_the_cache_is_named(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    md5 = listing(plant.root / "data" / "brick")["train/good/002.png"]
    plant(seed=5, images=7)
    place = Objects.of(plant.root).find(md5)
    assert place is not None
    flip(place[1])
    status, detail = broken(audit(plant.root, "brick"))["data"]
    assert status == "differs" and "train/good/002.png changed" in detail


def test_a_lost_object_is_found_in_the_remote_or_missing(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    md5 = listing(plant.root / "data" / "brick")["train/good/002.png"]
    plant(seed=5, images=7)
    place = Objects.of(plant.root).find(md5)
    assert place is not None
    remote = plant.root / "remote" / "files" / "md5" / md5[:2] / md5[2:]
    remote.parent.mkdir(parents=True)
    shutil.move(place[1], remote)
    report = audit(plant.root, "brick")
    assert report.verified, report.broken
    assert "cache and remote" in next(link.detail for link in report.links if link.name == "data")
    remote.unlink()
    assert broken(audit(plant.root, "brick"))["data"][0] == "missing"


def rewrite_gate_table(root: Path) -> None:
    client = tracking.connect(root)
    version = registry.resolve(client, "brick", None)
    table = judge.recorded_table(version)
    table["checks"][0]["value"] = 0.999
    client.log_dict(version.run_id, table, judge.TABLE)


def rewrite_gate_table_and_tags(root: Path, **changes: Any) -> None:
    """As whoever may write a run's files and a version's tags can: table, digest and verdict agree."""
    client = tracking.connect(root)
    for name in ("staging.brick", "production.brick"):
        version = registry.get(client, name, "1")
        document = judge.recorded_table(version) if version else {}
        document.get("checks", [{}])[0].update(changes)
        if version:
            client.log_dict(version.run_id, document, judge.TABLE)
            digest = GateTable.from_rows(document["checks"]).digest
            registry.tag(client, name, "1", {"gates.digest": digest, "gates.verdict": "pass"})


def test_a_promoted_version_whose_table_does_not_pass_is_named(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    rewrite_gate_table_and_tags(plant.root, verdict="fail", reason="below the limit")
    links = broken(audit(plant.root, "brick"))
    assert links["gate verdict"] == ("differs", "image_auroc >=") and "gate table" not in links


def test_a_table_that_agrees_with_its_tags_but_not_with_the_metrics_is_named(plant: Fabricator) -> None:
    set_params(plant.root, "manual")
    plant(seed=1, image_auroc=0.6)
    assert publish(plant.root, "brick").status == "refused"
    assert audit(plant.root, "brick").verified
    rewrite_gate_table_and_tags(plant.root, value=0.95, verdict="pass", reason="")
    promote.promote(plant.root, "brick", "Ada", "it says pass")
    told = "image_auroc >=: 0.6 against 0.8, fail, the table has 0.95 against 0.8, pass"
    assert broken(audit(plant.root, "brick")) == {"gate checks": ("differs", told)}
    plant(seed=2, images=7)  # newer work in its place: the metrics are looked up in DVC's cache
    assert broken(audit(plant.root, "brick")) == {"gate checks": ("differs", told)}
    rewrite_gate_table_and_tags(plant.root, value=0.6, limit=0.5)
    assert "0.6 against 0.5, pass" in broken(audit(plant.root, "brick"))["gate checks"][1]


def test_limits_that_have_changed_since_are_those_of_the_snapshot(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    path = plant.root / "mlflow" / "gates.yaml"
    path.write_text(path.read_text().replace("image_auroc: 0.80", "image_auroc: 0.97"))
    report = audit(plant.root, "brick")
    assert report.verified, report.broken
    assert "limits of gates.yaml" in next(link.detail for link in report.links if link.name == "gate checks")


def move_the_alias_by_hand(root: Path) -> None:
    client = tracking.connect(root)
    copied = client.copy_model_version("models:/production.brick/1", "production.brick")
    client.set_registered_model_alias("production.brick", "champion", copied.version)


def forget_the_snapshot(root: Path) -> None:
    client = tracking.connect(root)
    client.set_model_version_tag("production.brick", "1", "snapshot.sha", "0" * 40)


def rewrite_the_manifest(root: Path) -> None:
    client = tracking.connect(root)
    client.log_text(registry.resolve(client, "brick", None).run_id, "path,part\n", "data/manifest.csv")


def garble_the_lists(root: Path) -> None:
    client = tracking.connect(root)
    for path in ("lineage/model_files.json", judge.TABLE):
        client.log_text(registry.resolve(client, "brick", None).run_id, "{not json", path)


@pytest.mark.parametrize(
    ("tamper", "link"),
    [
        (rewrite_gate_table, "gate table"),
        (move_the_alias_by_hand, "champion alias"),
        (forget_the_snapshot, "snapshot"),
        (rewrite_the_manifest, "image manifest"),
        (garble_the_lists, "list of the model's files"),
    ],
)
def test_what_was_rewritten_in_mlflow_is_found(plant: Fabricator, tamper: Callable[[Path], None], link: str) -> None:
    publish(plant.root, "brick")
    tamper(plant.root)
    report = audit(plant.root, "brick")
    assert link in broken(report)
    assert not report.verified


def test_a_version_that_was_evaluated_on_other_images_is_named(plant: Fabricator) -> None:
    path = plant.root / "dvc.lock"
    lock = YAML(typ="safe").load(path.read_text())
    lock["stages"]["evaluate@brick"]["deps"][0]["md5"] = "0" * 32 + ".dir"
    YAML().dump(lock, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "one_data", True)  # as it was published before this was looked at
        publish(plant.root, "brick")
    links = broken(audit(plant.root, "brick"))
    assert links == {"images evaluated": ("differs", "md5 that augment, evaluate recorded")}


def test_a_waiting_version_can_be_audited_before_it_is_promoted(plant: Fabricator) -> None:
    set_params(plant.root, "manual")
    publish(plant.root, "brick")
    report = audit(plant.root, "brick")
    assert report.version == "staging.brick version 1" and report.verified, report.broken


def test_older_versions_stay_auditable_after_a_rollback(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    plant(seed=2)
    publish(plant.root, "brick")
    promote.rollback(plant.root, "brick", "Grace", "false alarms")
    for version in (None, "1", "2", "staging/2"):
        report = audit(plant.root, "brick", version)
        assert report.verified, (version, report.broken)
    assert [s["version"] for s in report.served] == ["1", "2", "1"]


def test_who_rolls_back_to_a_version_has_not_approved_it(plant: Fabricator) -> None:
    set_params(plant.root, "manual")
    for seed, by in ((1, "Ada"), (2, "Bo")):
        plant(seed=seed)
        publish(plant.root, "brick")
        promote.promote(plant.root, "brick", by, f"looked at by {by}")
    promote.rollback(plant.root, "brick", "Grace", "false alarms")
    report = audit(plant.root, "brick")
    assert report.version == "production.brick version 1" and report.verified, report.broken
    assert (report.approver["by"], report.approver["why"]) == ("Ada", "looked at by Ada")
    approved = report.to_html().partition("<h2>Approver</h2>")[2].partition("<h2>")[0]
    assert "Ada: looked at by Ada" in approved and "Grace" not in approved
    registry.tag(tracking.connect(plant.root), "production.brick", "1", {"promoted.by": "Grace"})
    assert set(broken(audit(plant.root, "brick"))) == {"approver"}
    assert audit(plant.root, "brick").approver["by"] == "Ada"


def test_a_promotion_that_was_undone_leaves_the_approval_as_it_was(
    plant: Fabricator, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(plant.root, "brick")
    plant(seed=2)
    publish(plant.root, "brick")

    def fails(step: str) -> None:
        if step == "marked":
            raise OSError("the disk is on fire")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="was undone"):
        patch.setattr(transaction, "reached", fails)
        promote.promote(plant.root, "brick", "Grace", "back to the first", version="1")
    for version in ("1", "2"):
        report = audit(plant.root, "brick", version)
        assert report.verified, (version, report.broken)
        assert report.approver["by"] == "gates"


def test_nothing_to_audit_is_said_in_one_line(plant: Fabricator, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"staging\.brick has no version"):
        audit(plant.root, "brick")
    publish(plant.root, "brick")
    with pytest.raises(UserError, match="has no version 7; there are: 1"):
        audit(plant.root, "brick", "7")
    other = make_workspace(tmp_path / "bare")
    with pytest.raises(UserError, match="lacks stages"):
        read_state(other, "brick")
