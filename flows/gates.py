"""The gates: may this version serve? Pure arithmetic on metrics and limits, told as a table of checks."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.reading import LARGEST, short
from components.settings import read_yaml

# Every metric a gate may name, and which way is better.
HIGHER = (
    "image_auroc", "pixel_auroc", "aupro_30", "pro", "image_balanced_accuracy", "image_f1", "pixel_f1",
)  # fmt: skip
LOWER = ("normal_false_positive_rate", "seconds_per_image")
METRICS = HIGHER + LOWER
KINDS = ("minimum", "maximum", "tolerance")
PROTOCOLS = ("test", "synthetic")  # what a category was evaluated on, metrics.json's `evaluated_on`


@dataclass(frozen=True)
class Limits:
    """What is asked of one category: metric name to number.

    minimum: value >= limit. maximum: value <= limit. tolerance: not worse than the champion by more than
    the limit (absolute, in the metric's unit; for seconds_per_image a share of the champion's).
    """

    minimum: Mapping[str, float] = field(default_factory=dict)
    maximum: Mapping[str, float] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the limits, so that a relaxed or tightened gate is judged anew."""
        return _digest(asdict(self))


@dataclass(frozen=True)
class Check:
    """One line of the table; verdict is `pass`, `fail` or `skip` (nothing to compare; see the reason)."""

    name: str
    value: float | None
    limit: float | None
    verdict: str
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the check does not stand in the way."""
        return self.verdict != "fail"


@dataclass(frozen=True)
class GateTable:
    """All checks of one version; it passes when none fails and at least one was made."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return any(c.verdict == "pass" for c in self.checks) and not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if c.verdict == "fail")

    @property
    def digest(self) -> str:
        """sha256 (hex) of the table, kept on the version so that an auditor can tell it was not rewritten."""
        return _digest(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain dicts, the order being that of evaluation."""
        return [asdict(c) for c in self.checks]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> GateTable:
        """The inverse of `rows`."""
        return cls(tuple(Check(**row) for row in rows))


def load_limits(path: Path, category: str, evaluated_on: str) -> Limits:
    """Read gates.yaml: the protocol's section, with the category's own values over it (null lifts a gate).

    Raises UserError for an unknown section, kind or metric, naming the nearest valid one.
    """
    document = read_yaml(path)
    _known(document, (*PROTOCOLS, "categories"), path.name)
    categories = document.get("categories") or {}
    if not isinstance(categories, dict):
        raise UserError(f"{path.name} categories must hold a mapping of keys to values")
    for name, own in categories.items():
        _known(own or {}, PROTOCOLS, f"{path.name} categories.{name}")
        for protocol in PROTOCOLS:
            _checked((own or {}).get(protocol), f"{path.name} categories.{name}.{protocol}")
    for protocol in PROTOCOLS:
        _checked(document.get(protocol), f"{path.name} {protocol}")
    if evaluated_on not in PROTOCOLS:
        raise UserError(f"metrics.json says evaluated_on '{evaluated_on}'; use {' or '.join(PROTOCOLS)}")
    default = document.get(evaluated_on) or {}
    special = (categories.get(category) or {}).get(evaluated_on) or {}
    merged = {kind: {**(default.get(kind) or {}), **(special.get(kind) or {})} for kind in KINDS}
    return Limits(**{kind: _asked(limits) for kind, limits in merged.items()})


def with_latency(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics plus `seconds_per_image`, the reciprocal of `images_per_second` where that is given."""
    rate = metrics.get("images_per_second")
    if "seconds_per_image" in metrics or not isinstance(rate, int | float) or not rate > 0:
        return dict(metrics)
    return {**metrics, "seconds_per_image": 1.0 / rate}


def evaluate_gates(metrics: Mapping[str, Any], champion: Mapping[str, Any] | None, limits: Limits) -> GateTable:
    """Check the metrics against absolute limits and against the champion's, scored on the same test set.

    `metrics` holds numbers and, where a metric cannot exist (no masks, say), `absent`: {name: why}; only a
    metric absent with a reason is skipped. NaN, infinity or a metric that is simply not there fails.
    `champion` is None when nothing serves yet.
    """
    found = with_latency(metrics)
    rival = with_latency(champion) if champion is not None else None
    checks = [_absolute(found, m, v, at_least=True) for m, v in limits.minimum.items()]
    checks += [_absolute(found, m, v, at_least=False) for m, v in limits.maximum.items()]
    checks += [_relative(found, rival, m, t) for m, t in limits.tolerance.items()]
    return GateTable(tuple(checks))


def _absolute(found: Mapping[str, Any], metric: str, limit: float, at_least: bool) -> Check:
    name = f"{metric} {'>=' if at_least else '<='}"
    value = _number(found, metric)
    if value is None:
        return _unmeasured(found, name, metric, limit)
    good = value >= limit if at_least else value <= limit
    side = "below" if at_least else "above"
    return Check(name, value, limit, "pass" if good else "fail", "" if good else f"{side} the limit")


def _relative(found: Mapping[str, Any], rival: Mapping[str, Any] | None, metric: str, tolerance: float) -> Check:
    name = f"{metric} vs champion"
    value = _number(found, metric)
    if rival is None:
        return Check(name, value, None, "skip", "no champion yet")
    theirs = _number(rival, metric)
    if theirs is None:
        return Check(name, value, None, "skip", "the champion has no such number")
    if metric == "seconds_per_image":
        limit = theirs * (1 + tolerance)
    else:
        limit = theirs - tolerance if metric in HIGHER else theirs + tolerance
    if value is None:
        return _unmeasured(found, name, metric, limit)
    good = value >= limit if metric in HIGHER else value <= limit
    reason = f"the champion has {theirs:.4g}, {tolerance:g} may be lost"
    return Check(name, value, limit, "pass" if good else "fail", reason)


def _unmeasured(found: Mapping[str, Any], name: str, metric: str, limit: float) -> Check:
    absent = found.get("absent") or {}
    if metric in absent and found.get(metric) is None:
        return Check(name, None, limit, "skip", f"absent: {absent[metric]}")
    given = found.get(metric)
    reason = "not measured" if given is None else f"not a finite number ({given})"
    return Check(name, None, limit, "fail", reason)


def _number(metrics: Mapping[str, Any], metric: str) -> float | None:
    value = metrics.get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _asked(limits: Mapping[str, Any]) -> dict[str, float]:
    return {metric: float(value) for metric, value in limits.items() if value is not None}


def _checked(section: Any, where: str) -> None:
    _known(section or {}, KINDS, where)
    for kind in KINDS:
        limits = (section or {}).get(kind) or {}
        _known(limits, METRICS, f"{where}.{kind}")
        for metric, value in limits.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
            if value is not None and not number:
                raise UserError(f"{where}.{kind}.{metric} is {short(value)}; use a number, or null for no gate")


def _known(given: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    if not isinstance(given, Mapping):
        raise UserError(f"{where} must hold a mapping of keys to values")
    for key in given:
        if key not in allowed:
            match = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.4)
            hint = f"did you mean '{match[0]}'?" if match else f"valid: {', '.join(allowed)}"
            raise UserError(f"{where} has an unknown gate '{key}' ({hint})")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()
