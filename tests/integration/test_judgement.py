"""A version is decided about by a judgement that still stands, and by its gate table rather than by a tag."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.errors import UserError
from flows import judge, promote
from flows.adapters import registry, tracking
from flows.audit import audit
from flows.publish import publish
from tests.artifacts_fixture import Fabricator, set_params


@pytest.fixture
def root(plant: Fabricator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Version 1 serves; 2 (image AUROC .955) and 3 (.98) passed beside it and wait."""
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    publish(plant.root, "brick")
    set_params(plant.root, "manual")
    for seed, auroc in ((2, 0.955), (3, 0.98)):
        plant(seed=seed, image_auroc=auroc)
        assert publish(plant.root, "brick").status == "waiting"
    return plant.root


def staged(root: Path, number: str) -> dict[str, str]:
    return dict(tracking.connect(root).get_model_version("staging.brick", number).tags)


def test_a_version_that_passed_beside_another_champion_is_judged_anew(root: Path) -> None:
    assert promote.promote(root, "brick", "Ada", "the best so far", version="3") == "2"
    told: list[str] = []
    with pytest.raises(UserError, match=r"staging\.brick version 2 failed its gates \(image_auroc vs champion\)"):
        promote.promote(root, "brick", "Ada", "this one too", version="2", tell=told.append)
    assert len(told) == 1 and "judging it anew" in told[0]
    assert staged(root, "2")["gates.champion"] == "2" and staged(root, "2")["gates.verdict"] == "fail"
    last = promote.history(root, "brick").iloc[-1]
    assert (last["kind"], last["judged"]) == ("refusal", "beside version 2")


def test_limits_that_were_tightened_since_count(root: Path) -> None:
    path = root / "mlflow" / "gates.yaml"
    path.write_text(path.read_text().replace("image_auroc: 0.80", "image_auroc: 0.96"))
    with pytest.raises(UserError, match=r"version 2 failed its gates \(image_auroc >=\)"):
        promote.promote(root, "brick", "Ada", "it passed", version="2")
    assert promote.promote(root, "brick", "Ada", "it still passes", version="3") == "2"


def test_an_old_judgement_that_cannot_be_made_anew_here_is_not_decided_by(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote.promote(root, "brick", "Ada", "the best so far", version="3")

    def unseen(*_: object) -> list[float]:
        raise FileNotFoundError("no such image")

    monkeypatch.setattr(judge, "latencies", unseen)
    with pytest.raises(UserError, match=r"anew here \(no such image\); promote it from the workspace that trains"):
        promote.promote(root, "brick", "Ada", "this one too", version="2")
    assert registry.aliased(tracking.connect(root), "production.brick", "champion") == "2"


def test_what_has_served_may_serve_again_at_once_and_the_record_says_by_which_judgement(root: Path) -> None:
    for version in ("2", "3"):
        promote.promote(root, "brick", "Ada", "better", version=version)
    assert promote.promote(root, "brick", "Grace", "both see scratches where none are", version="1") == "1"
    assert promote.history(root, "brick")["judged"].tolist() == [
        "without a champion", "beside version 1", "beside version 2", "before, when it first served",
    ]  # fmt: skip


def test_a_tag_that_says_pass_does_not_let_a_refused_version_serve(plant: Fabricator) -> None:
    plant(seed=1, image_auroc=0.6)
    assert publish(plant.root, "brick").status == "refused"
    client = tracking.connect(plant.root)
    registry.tag(client, "staging.brick", "1", {"gates.verdict": "pass", "gates.failed": "", "promotion": "waiting"})
    with pytest.raises(UserError, match=r"failed its gates \(image_auroc >=\)"):
        promote.promote(plant.root, "brick", "Ada", "it says pass")
    assert publish(plant.root, "brick").status == "refused"  # policy auto


def test_a_gate_table_that_was_rewritten_is_not_decided_by(plant: Fabricator) -> None:
    plant(seed=1, image_auroc=0.6)
    publish(plant.root, "brick")
    client = tracking.connect(plant.root)
    version = client.get_model_version("staging.brick", "1")
    table = judge.recorded_table(version)
    table["checks"] = [c for c in table["checks"] if c["verdict"] != "fail"]
    client.log_dict(version.run_id, table, judge.TABLE)
    registry.tag(client, "staging.brick", "1", {"gates.verdict": "pass"})
    with pytest.raises(UserError, match="failed its gates"):
        promote.promote(plant.root, "brick", "Ada", "it says pass")
    assert not judge.kept_table(version).passed  # made anew, and kept


def test_what_served_does_not_come_back_by_another_gate_table(root: Path) -> None:
    promote.promote(root, "brick", "Ada", "better", version="3")
    client = tracking.connect(root)
    version = client.get_model_version("production.brick", "1")
    rows = json.loads(json.dumps(judge.recorded_table(version)))
    rows["checks"][0]["value"] = 0.999
    client.log_dict(version.run_id, rows, judge.TABLE)
    with pytest.raises(UserError, match=r"is not the one it was promoted by; see `kintsugi audit brick --version 1`"):
        promote.promote(root, "brick", "Ada", "back again", version="1")


def test_a_copy_that_never_served_opens_no_door(root: Path) -> None:
    client = tracking.connect(root)
    client.copy_model_version("models:/staging.brick/2", "production.brick")  # as a promotion cut off leaves it
    promote.promote(root, "brick", "Ada", "the best so far", version="3")
    with pytest.raises(UserError, match="version 2 failed its gates"):
        promote.promote(root, "brick", "Ada", "this one too", version="2")


def test_such_a_copy_carries_the_judgement_by_which_it_comes_to_serve(root: Path) -> None:
    client = tracking.connect(root)
    client.copy_model_version("models:/staging.brick/3", "production.brick")
    promote.promote(root, "brick", "Ada", "better", version="2")
    assert promote.promote(root, "brick", "Ada", "better still", version="3") == "2"
    assert client.get_model_version("production.brick", "2").tags["gates.champion"] == "3"
    report = audit(root, "brick")
    assert report.verified, report.broken
