"""Settings of the plant around the model: landing folder, watch and drift; `settings/plant.yaml` holds them.

They are apart from the method's settings because no stage depends on them: a landing folder that moves
must not make a model stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from components.errors import UserError
from components.reading import LARGEST, mapping, read_yaml, short
from flows.outcome import nearest

FILE = "settings/plant.yaml"


@dataclass(frozen=True)
class Ingest:
    """Where new images land and what a good one may look like."""

    landing: str  # folder (relative to the workspace) or fsspec address; {category} stands for the category
    branch: str  # data.dvc is committed on this branch; "" leaves the commit to a person
    settle: float  # a file younger than this many seconds may still be being written and is left for later
    margin: float  # how far a new image may lie outside of train/good's range, as a share of that range
    near_duplicate: float  # greatest difference (RMS, share of full scale) of two pictures that count as one


@dataclass(frozen=True)
class Watch:
    """When waiting images start a retraining."""

    every: float  # seconds between two looks
    images: int  # so many waiting images are enough
    patience: float  # hours after which fewer are enough


@dataclass(frozen=True)
class Drift:
    """When the scores of late are no longer those of the calibration."""

    every: float  # hours between two looks
    days: float  # the window that is compared
    images: int  # fewer scores than this say nothing
    p_value: float  # Kolmogorov-Smirnov below this, and
    stability: float  # population stability index above this, both: they part


@dataclass(frozen=True)
class Plant:
    """All of it, resolved for one category."""

    ingest: Ingest
    watch: Watch
    drift: Drift

    def landing(self, root: Path, category: str) -> str:
        """The category's landing place: an absolute folder, or an fsspec address as it stands."""
        named = self.ingest.landing.replace("{category}", category)
        return named if "://" in named else str(root / named)


SECTIONS: dict[str, type] = {"ingest": Ingest, "watch": Watch, "drift": Drift}


def load(root: Path, category: str) -> Plant:
    """Read settings/plant.yaml for a category.

    Raises UserError for an unknown key (the nearest valid one is offered), a missing one, or a value of
    another kind.
    """
    base = read_yaml(root / FILE)
    _known(base, [*SECTIONS, "categories"], FILE)
    own = mapping(mapping(base.get("categories"), f"{FILE} categories").get(category), f"{FILE} categories.{category}")
    _known(own, SECTIONS, f"{FILE} categories.{category}")
    return Plant(**{name: _section(cls, name, base, own, category) for name, cls in SECTIONS.items()})


def _section(cls: type, name: str, base: Mapping[str, Any], own: Mapping[str, Any], category: str) -> Any:
    keys = [field.name for field in fields(cls)]
    given = mapping(base.get(name), f"{FILE} {name}")
    extra = mapping(own.get(name), f"{FILE} categories.{category}.{name}")
    _known(given, keys, f"{FILE} {name}")
    _known(extra, keys, f"{FILE} categories.{category}.{name}")
    values = given | extra
    hints = get_type_hints(cls)
    for key in keys:
        if key not in values:
            raise UserError(f"{FILE} {name} lacks '{key}'; add it")
        values[key] = _convert(values[key], hints[key], f"{FILE} {name}.{key}")
    return cls(**values)


def _convert(value: Any, kind: type, where: str) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LARGEST:
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if kind is str and isinstance(value, str):
        return value
    wanted = {float: "a number from 0", int: "a whole number from 1", str: "a text"}[kind]
    raise UserError(f"{where} is {short(value)}; it must be {wanted}")


def _known(given: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    names = list(allowed)
    for key in given:
        if key not in names:
            raise UserError(f"{where} has an unknown setting '{key}'{nearest(str(key), names)}")
