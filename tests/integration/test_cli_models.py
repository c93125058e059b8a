"""The commands about versions, on a real MLflow registry and a fabricated category."""

from __future__ import annotations

import json

import pytest

from flows import cli, judge
from flows.publish import publish
from tests.artifacts_fixture import Fabricator, set_params


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_from_waiting_to_serving_to_the_audit(
    plant: Fabricator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{plant.root / 'mlflow.db'}")
    set_params(plant.root, policy="manual")
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
