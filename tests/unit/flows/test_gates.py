"""The gates as arithmetic: limits in, table out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import UserError
from flows.gates import METRICS, GateTable, Limits, evaluate_gates, load_limits

REPO = Path(__file__).resolve().parents[3]
GOOD = {"image_auroc": 0.9, "normal_false_positive_rate": 0.1, "images_per_second": 2.0}


def verdicts(table: GateTable) -> dict[str, str]:
    return {c.name: c.verdict for c in table.checks}


def test_absolute_limits_include_their_bound() -> None:
    limits = Limits(minimum={"image_auroc": 0.9}, maximum={"normal_false_positive_rate": 0.1})
    assert evaluate_gates(GOOD, None, limits).passed
    worse = GOOD | {"image_auroc": 0.8999, "normal_false_positive_rate": 0.1001}
    assert len(evaluate_gates(worse, None, limits).failed) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.9", True])
def test_what_is_not_a_finite_number_fails(value: object) -> None:
    table = evaluate_gates({"image_auroc": value}, None, Limits(minimum={"image_auroc": 0.5}))
    assert verdicts(table) == {"image_auroc >=": "fail"}


def test_a_metric_that_is_not_there_fails_unless_its_absence_is_explained() -> None:
    limits = Limits(minimum={"pixel_auroc": 0.5, "image_auroc": 0.5})
    assert verdicts(evaluate_gates(GOOD, None, limits))["pixel_auroc >="] == "fail"
    explained = evaluate_gates(GOOD | {"absent": {"pixel_auroc": "no masks"}}, None, limits)
    assert verdicts(explained)["pixel_auroc >="] == "skip"
    assert explained.passed and "no masks" in explained.checks[0].reason


def test_an_explained_absence_does_not_excuse_a_nan() -> None:
    metrics = {"pixel_auroc": math.nan, "absent": {"pixel_auroc": "no masks"}}
    assert not evaluate_gates(metrics, None, Limits(minimum={"pixel_auroc": 0.5})).passed


def test_latency_is_the_reciprocal_of_the_rate() -> None:
    assert evaluate_gates(GOOD, None, Limits(maximum={"seconds_per_image": 0.5})).passed
    assert not evaluate_gates(GOOD, None, Limits(maximum={"seconds_per_image": 0.49})).passed
    stalled = {"images_per_second": 0.0}
    assert not evaluate_gates(stalled, None, Limits(maximum={"seconds_per_image": 9})).passed


def test_the_champion_may_be_better_by_the_tolerance_and_no_more() -> None:
    tolerance = {"image_auroc": 0.02, "normal_false_positive_rate": 0.05, "seconds_per_image": 1.0}
    limits = Limits(tolerance=tolerance)
    champion = {"image_auroc": 0.92, "normal_false_positive_rate": 0.05, "images_per_second": 4.0}
    assert evaluate_gates(GOOD, champion, limits).passed
    champion = {"image_auroc": 0.93, "normal_false_positive_rate": 0.04, "images_per_second": 4.1}
    assert {c.verdict for c in evaluate_gates(GOOD, champion, limits).checks} == {"fail"}


def test_no_champion_skips_the_comparison_but_a_table_of_skips_is_no_pass() -> None:
    table = evaluate_gates(GOOD, None, Limits(tolerance={"image_auroc": 0.02}))
    assert verdicts(table) == {"image_auroc vs champion": "skip"}
    assert not table.passed


def test_tables_read_back_and_a_changed_value_changes_the_digest() -> None:
    table = evaluate_gates(GOOD, None, Limits(minimum={"image_auroc": 0.5}))
    assert GateTable.from_rows(table.rows()) == table
    other = evaluate_gates(GOOD | {"image_auroc": 0.91}, None, Limits(minimum={"image_auroc": 0.5}))
    assert other.digest != table.digest == GateTable.from_rows(table.rows()).digest


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_better_model_never_fails_where_a_worse_one_passes(low: float, step: float, limit: float) -> None:
    limits = Limits(minimum={"image_auroc": limit}, tolerance={"image_auroc": 0.02})
    champion = {"image_auroc": limit}
    worse = evaluate_gates({"image_auroc": low}, champion, limits)
    better = evaluate_gates({"image_auroc": low + step}, champion, limits)
    assert better.passed or not worse.passed


@pytest.mark.parametrize("protocol", ["test", "synthetic"])
def test_the_projects_own_gates_read(protocol: str) -> None:
    limits = load_limits(REPO / "mlflow" / "gates.yaml", "brick", protocol)
    assert {"image_auroc", "normal_false_positive_rate"} <= {*limits.minimum, *limits.maximum}
    assert {*limits.minimum, *limits.maximum, *limits.tolerance} <= set(METRICS)


def gates_file(folder: Path, text: str) -> Path:
    path = folder / "gates.yaml"
    path.write_text(text)
    return path


def test_a_category_overrides_and_null_lifts(tmp_path: Path) -> None:
    text = """
test: {minimum: {image_auroc: 0.8, pixel_auroc: 0.8}}
categories: {tile: {test: {minimum: {image_auroc: 0.7, pixel_auroc: null}}}}
"""
    path = gates_file(tmp_path, text)
    assert load_limits(path, "brick", "test").minimum == {"image_auroc": 0.8, "pixel_auroc": 0.8}
    assert load_limits(path, "tile", "test").minimum == {"image_auroc": 0.7}
    assert load_limits(path, "tile", "test").digest != load_limits(path, "brick", "test").digest


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("tests: {}", "did you mean 'test'"),
        ("test: {minimun: {}}", "did you mean 'minimum'"),
        ("test: {minimum: {image_aucroc: 0.8}}", "did you mean 'image_auroc'"),
        ("categories: {tile: {test: {maximum: {second_per_image: 1}}}}", "did you mean 'seconds_per_image'"),
        ("test: {minimum: {image_auroc: high}}", "use a number"),
        ("test: [1]", "must hold a mapping"),
    ],
)
def test_an_unknown_gate_is_an_error_that_names_the_nearest(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        load_limits(gates_file(tmp_path, text), "brick", "test")
