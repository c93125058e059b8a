"""The decisions of docs/plants-day.md are run as they stand there, in their order, on a real registry."""

from __future__ import annotations

import shlex

import pytest

from flows import cli, judge, promote
from flows.publish import publish
from tests.artifacts_fixture import Fabricator, set_params
from tests.conftest import REPO
from tests.e2e.test_readme import fenced

RUN = ("status", "promote", "history", "rollback", "audit")  # the others train, serve or wait: e2e/ has them


def test_the_days_decisions_work_as_they_are_written(
    plant: Fabricator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{plant.root / 'mlflow.db'}")
    assert publish(plant.root, "brick").status == "promoted"
    set_params(plant.root, policy="manual")
    plant(seed=1)
    assert publish(plant.root, "brick").status == "waiting"
    page = (REPO / "docs" / "plants-day.md").read_text(encoding="utf-8")
    lines = [line for line in fenced(page) if line.split()[:1] == ["kintsugi"] and line.split()[1] in RUN]
    assert [line.split()[1] for line in lines] == list(RUN)
    for line in lines:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(shlex.split(line.replace("bolt", "brick"))[1:])
        assert ended.value.code == 0, f"{line}: {capsys.readouterr().err}"
    record = promote.history(plant.root, "brick")
    assert record[["kind", "by", "to_version"]].to_numpy().tolist()[1:] == [
        ["promotion", "Ada Lovelace", "2"],
        ["rollback", "Ada Lovelace", "1"],
    ]
    assert (plant.root / "audit" / "brick.html").is_file()
