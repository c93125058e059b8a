"""The commands about versions, on a real MLflow registry and a fabricated category."""

from __future__ import annotations

import json

import pytest

from flows import cli, judge
from flows.publish import publish
from flows.status import _versions
from tests.artifacts_fixture import Fabricator, set_params


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    code = ended.value.code
    assert isinstance(code, int)
    return code


def decided_by_people(plant: Fabricator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{plant.root / 'mlflow.db'}")
    set_params(plant.root, policy="manual")


def test_from_waiting_to_serving_to_the_audit(
    plant: Fabricator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decided_by_people(plant, monkeypatch)
    assert publish(plant.root, "brick").status == "waiting"
    capsys.readouterr()

    assert call("promote", "brick", "--by", "Ada", "--why", "looks right", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"category": "brick", "version": "1"}
    assert call("rollback", "brick", "--by", "Ada", "--why", "no, wait") == 1  # nothing served before it
    error = capsys.readouterr().err
    assert error.startswith("kintsugi: ") and error.count("\n") == 1

    assert call("history", "brick", "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert [(r["kind"], r["by"], r["why"]) for r in records] == [("promotion", "Ada", "looks right")]
    assert call("history", "brick") == 0
    assert "looks right" in capsys.readouterr().out

    assert call("audit", "brick", "--json", "--html", "audit/brick.html") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verified"] is True
    assert "<html" in (plant.root / "audit/brick.html").read_text()
    next((plant.root / "artifacts/brick/package").glob("*.json")).write_text("{}")
    assert call("audit", "brick") == 1
    out, err = capsys.readouterr()
    assert "differs" in out and "differs" in err


def test_several_versions_wait_and_each_can_be_turned_down(
    plant: Fabricator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decided_by_people(plant, monkeypatch)
    for seed, auroc in ((1, 0.95), (2, 0.95), (3, 0.6)):
        plant(seed=seed, image_auroc=auroc)
        publish(plant.root, "brick")
    signed = ("--by", "Ada", "--why", "too many stops")

    def waiting() -> str:
        return _versions(plant.root, ["brick"])["brick"][1]

    assert waiting() == "2, 1"
    capsys.readouterr()
    assert call("promote", "brick", *signed) == 1
    error = capsys.readouterr().err
    assert "version 3 failed its gates" in error and error.endswith("; waiting: 2, 1, to be named with --version\n")
    assert call("refuse", "brick", *signed) == 1
    assert "version 3 waits for no decision (refused); waiting: 2, 1, to be named" in capsys.readouterr().err
    assert call("refuse", "brick", "--version", "2", *signed) == 0
    assert capsys.readouterr().out == "staging.brick version 2 is turned down\n"
    assert waiting() == "1"
    assert call("promote", "brick", "--version", "1", *signed) == 0
    capsys.readouterr()
    assert call("refuse", "brick", "--version", "1", *signed) == 1
    assert "serves already; use rollback" in capsys.readouterr().err
    assert waiting() == ""


def test_a_category_that_params_yaml_no_longer_names_keeps_its_history_and_audit(
    plant: Fabricator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{plant.root / 'mlflow.db'}")
    publish(plant.root, "brick")
    set_params(plant.root, "manual", ("tile",))
    capsys.readouterr()
    assert call("history", "brick", "--json") == 0
    assert [r["by"] for r in json.loads(capsys.readouterr().out)] == ["gates"]
    assert call("audit", "brick", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True
    assert call("audit", "brik") == 1
    assert capsys.readouterr().err == "kintsugi: unknown category 'brik'; did you mean 'brick'?\n"
    assert call("promote", "brick", "--by", "Ada", "--why", "again") == 1
    assert "unknown category 'brick'" in capsys.readouterr().err
