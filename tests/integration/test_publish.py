"""Publication against a real MLflow: what is written, what the gates decide, and that it is done once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest

from components.errors import UserError
from components.stage import STAGES
from flows import fixity, judge, lineage, promote
from flows.adapters import tracking
from flows.audit import audit
from flows.publish import publish
from tests.artifacts_fixture import GOOD, Fabricator, set_params, write_bundle


def test_a_good_run_is_logged_registered_and_promoted(plant: Fabricator) -> None:
    done = publish(plant.root, "brick", prefect_run_id="run-7", validation=validation(plant))
    assert (done.status, done.version, done.production_version, done.new) == ("promoted", "1", "1", True)

    client = tracking.connect(plant.root)
    run = client.get_run(done.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["vqvae.beta"] == "0.25"
    assert run.data.metrics["image_auroc"] == GOOD["image_auroc"]
    assert run.data.tags["protocol"] == GOOD["protocol"]
    points = client.get_metric_history(done.run_id, "train_vqvae/loss")
    assert [p.step for p in points] == [0, 1, 2, 3, 4]
    assert [p.step for p in client.get_metric_history(done.run_id, "train_vqvae/val_loss")] == [0, 2, 4]
    contexts = {i.tags[0].value: i.dataset for i in run.inputs.dataset_inputs}
    assert set(contexts) == {"train", "val", "calib", "test"}
    data_md5 = run.data.tags["data.md5"]
    assert {d.digest for d in contexts.values()} == {data_md5} and len(data_md5) == 36
    stored = {f.path for f in client.list_artifacts(done.run_id, "evaluate/gallery")}
    assert stored == {"evaluate/gallery/scratch.png"}

    champion = client.get_model_version_by_alias("production.brick", "champion")
    tags = champion.tags
    assert tags["prefect.run_id"] == "run-7" and tags["gx.success"] == "true"
    assert {k for k in tags if k.startswith("stage.")} == {f"stage.{s}.md5" for s in STAGES}
    for name in ("git.sha", "snapshot.sha", "dvc_lock.sha256", "params.sha256", "version.torch"):
        assert tags[name], name
    assert run.data.tags["snapshot.sha"] == tags["snapshot.sha"]


def validation(plant: Fabricator) -> dict[str, Any]:
    """Great Expectations' result for the category's present images."""
    listing = fixity.listing(plant.root / "data" / "brick")
    return {"success": True, "data_md5": fixity.listing_md5(listing)}


def test_a_validation_of_other_images_is_none(plant: Fabricator) -> None:
    before = validation(plant)
    cv2.imwrite(str(plant.root / "data/brick/train/good/by-hand.png"), np.zeros((32, 32, 3), np.uint8))
    plant.record("brick")
    tags = lineage.collect(plant.root, lineage.read_state(plant.root, "brick"), "test", None, before)
    assert (tags["gx.success"], tags["gx.result"]) == ("not run", "none")
    tags = lineage.collect(plant.root, lineage.read_state(plant.root, "brick"), "test", None, validation(plant))
    assert tags["gx.success"] == "true" and tags["data.md5"] in tags["gx.result"]


def test_the_runs_report_has_the_stages_page_and_the_lineage(plant: Fabricator) -> None:
    stage_page = "<!doctype html><main><h1>Evaluation</h1></main>"
    (plant.root / "artifacts" / "brick" / "evaluate" / "report.html").write_text(stage_page)
    plant.record("brick")
    done = publish(plant.root, "brick")
    page = mlflow.artifacts.load_text(f"runs:/{done.run_id}/report.html")
    tags = tracking.connect(plant.root).get_run(done.run_id).data.tags
    assert page.startswith("<!doctype html><main><h1>Evaluation</h1><section") and page.rstrip().endswith("</main>")
    for name in ("data.md5", "snapshot.sha", "stage.package.md5", "git.sha"):
        assert tags[name] in page, name
    assert done.run_id in page


def test_the_card_is_in_the_registry_on_the_run_and_in_the_model(plant: Fabricator) -> None:
    done = publish(plant.root, "brick")
    client = tracking.connect(plant.root)
    text = mlflow.artifacts.load_text(f"runs:/{done.run_id}/model_card.md")
    assert text.startswith("# Model card: `brick`") and f"| image AUROC | {GOOD['image_auroc']:.3f} |" in text
    for name in ("staging.brick", "production.brick"):
        version = client.get_model_version(name, "1")
        assert version.description == text and version.tags["card.sha256"] == fixity.text_sha256(text)
    folder = mlflow.artifacts.download_artifacts("models:/production.brick@champion")
    assert Path(folder, "artifacts", "README.md").read_text(encoding="utf-8") == text
    assert {"model card"} <= {link.name for link in audit(plant.root, "brick").links if link.status == "verified"}


def test_the_model_carries_signature_and_example_and_no_pickle(plant: Fabricator) -> None:
    publish(plant.root, "brick")
    tracking.connect(plant.root)
    info = mlflow.models.get_model_info("models:/production.brick@champion")
    assert info.signature.inputs.input_names() == ["image"]
    assert info.signature.params.params[0].name == "return_map"
    folder = mlflow.artifacts.download_artifacts("models:/production.brick@champion")
    files = {p.name for p in Path(folder).rglob("*") if p.is_file()}
    assert {"model.py", "bundle.json", "input_example.json", "requirements.txt"} <= files
    assert not [f for f in files if f.endswith((".pkl", ".pickle", ".pyc"))]


def test_publishing_the_same_state_again_changes_nothing(plant: Fabricator) -> None:
    first = publish(plant.root, "brick")
    client = tracking.connect(plant.root)
    again = publish(plant.root, "brick")
    assert not again.new
    assert (again.version, again.run_id, again.status) == (first.version, first.run_id, "promoted")
    assert len(client.search_model_versions("name='production.brick'")) == 1
    assert len(promote.history(plant.root, "brick")) == 1


def test_another_categorys_training_does_not_make_this_one_new(plant: Fabricator) -> None:
    set_params(plant.root, "auto", ("brick", "tile"))
    publish(plant.root, "brick")
    plant("tile", seed=4, images=9)
    assert not publish(plant.root, "brick").new


def test_an_interrupted_publication_is_done_over(plant: Fabricator, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.adapters import served

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(served, "log", dies)
        publish(plant.root, "brick")
    done = publish(plant.root, "brick")
    client = tracking.connect(plant.root)
    experiment = client.get_experiment_by_name("kintsugi/brick").experiment_id
    assert [r.info.run_id for r in client.search_runs([experiment])] == [done.run_id]
    assert done.status == "promoted" and done.version == "1"


def test_a_bad_model_is_refused_once_and_stays_in_staging(plant: Fabricator) -> None:
    plant(seed=1, image_auroc=0.6)
    for new in (True, False):
        done = publish(plant.root, "brick")
        assert (done.status, done.new, done.champion) == ("refused", new, "")
        assert [c.name for c in done.gates.failed] == ["image_auroc >="]
    history = promote.history(plant.root, "brick")
    assert list(history["kind"]) == ["refusal"] and list(history["by"]) == ["gates"]
    with pytest.raises(UserError, match="failed its gates"):
        promote.promote(plant.root, "brick", "Ada", "I insist")
    assert list(promote.history(plant.root, "brick")["by"]) == ["gates", "Ada"]


def test_a_relaxed_gate_judges_the_refused_version_anew(plant: Fabricator) -> None:
    plant(seed=1, image_auroc=0.6)
    publish(plant.root, "brick")
    path = plant.root / "mlflow" / "gates.yaml"
    path.write_text(path.read_text().replace("image_auroc: 0.80", "image_auroc: 0.55"))
    assert publish(plant.root, "brick").status == "promoted"


def test_manual_policy_waits_for_a_person(plant: Fabricator) -> None:
    set_params(plant.root, "manual")
    assert publish(plant.root, "brick").status == "waiting"
    assert promote.promote(plant.root, "brick", "Ada", "looks right") == "1"
    assert publish(plant.root, "brick").status == "promoted"


def test_worse_than_the_champion_is_refused(plant: Fabricator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    publish(plant.root, "brick")
    plant(seed=2, image_auroc=0.92)
    done = publish(plant.root, "brick")
    assert done.status == "refused" and done.champion == "1"
    assert [c.name for c in done.gates.failed] == ["image_auroc vs champion"]
    assert "both as recorded" in done.basis


def test_changed_test_images_have_the_champion_scored_anew(plant: Fabricator, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []

    def rescore(client: object, root: object, category: str, version: object) -> dict[str, float]:
        scored.append(f"{version.name} {version.version}")
        return GOOD | {"image_auroc": 0.85}

    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    monkeypatch.setattr(judge, "_rescore", rescore)
    publish(plant.root, "brick")
    plant(seed=3, images=5, image_auroc=0.90)
    done = publish(plant.root, "brick")
    assert scored == ["production.brick 1"]
    assert done.status == "promoted" and done.production_version == "2"


def test_latency_is_compared_in_one_sitting(plant: Fabricator, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(plant.root, "brick")
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.5, 0.1])
    plant(seed=2)
    assert [c.name for c in publish(plant.root, "brick").gates.failed] == ["seconds_per_image vs champion"]


def test_outputs_that_are_not_what_dvc_recorded_are_not_published(plant: Fabricator) -> None:
    (plant.root / "artifacts" / "brick" / "package" / "bundle.json").write_text("{}")
    with pytest.raises(UserError, match=r"not what dvc\.lock records"):
        publish(plant.root, "brick")
    client = tracking.connect(plant.root)
    assert client.search_model_versions("name='staging.brick'") == []


def test_unfinished_stages_are_named(plant: Fabricator) -> None:
    (plant.root / "dvc.lock").unlink()
    with pytest.raises(UserError, match="lacks stages"):
        publish(plant.root, "brick")


def test_synthetic_categories_meet_their_own_gates(plant: Fabricator) -> None:
    plant(seed=1, evaluated_on="synthetic", normal_false_positive_rate=0.22)
    done = publish(plant.root, "brick")
    assert [c.name for c in done.gates.failed] == ["normal_false_positive_rate <="]


def test_the_logged_table_reads_back(plant: Fabricator) -> None:
    done = publish(plant.root, "brick")
    text = mlflow.artifacts.load_text(f"runs:/{done.run_id}/gates/table.json")
    assert json.loads(text)["passed"] is True
    table = mlflow.artifacts.load_text(f"runs:/{done.run_id}/tables/per_defect.json")
    assert pd.DataFrame(**json.loads(table))["defect"].tolist() == ["scratch"]


def test_a_real_champion_is_scored_and_timed_on_the_present_images(plant: Fabricator) -> None:
    package = plant.root / "artifacts" / "brick" / "package"
    write_bundle(package)
    plant.record("brick")
    assert publish(plant.root, "brick").status == "promoted"
    plant(seed=1, images=5)
    write_bundle(package, seed=1)
    plant.record("brick")
    done = publish(plant.root, "brick")
    assert done.basis == "the champion scored anew on this version's test set"
    checks = {c.name: c for c in done.gates.checks}
    theirs = checks["image_auroc vs champion"].limit + 0.02
    assert 0 <= theirs <= 1 and theirs != GOOD["image_auroc"]  # never trained, so not what was written down
    assert 0 < checks["seconds_per_image vs champion"].value < 60
