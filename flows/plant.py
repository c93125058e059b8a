"""Settings of the plant around the model: landing folder, watch and drift; `settings/plant.yaml` holds them.

They are apart from the method's settings because no stage depends on them: a landing folder that moves
must not make a model stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from components.errors import UserError
from components.reading import mapping, read_yaml, short
from components.settings import build, check_known

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
LEAST: dict[type, int] = {float: 0, int: 1}
INTERVALS = (("watch", "every"), ("drift", "every"))  # Prefect schedules none of no length


def load(root: Path, category: str) -> Plant:
    """Read settings/plant.yaml for a category.

    Raises UserError for an unknown key (the nearest valid one is offered), a missing one, or a value of
    another kind or out of its range.
    """
    base = read_yaml(root / FILE)
    check_known(base, (*SECTIONS, "categories"), FILE)
    where = f"{FILE} categories.{category}"
    own = mapping(mapping(base.get("categories"), f"{FILE} categories").get(category), where)
    check_known(own, tuple(SECTIONS), where)
    return Plant(**{name: _section(cls, name, base, own, where) for name, cls in SECTIONS.items()})


def _section(cls: type, name: str, base: Mapping[str, Any], own: Mapping[str, Any], where: str) -> Any:
    given, extra = mapping(base.get(name), f"{FILE} {name}"), mapping(own.get(name), f"{where}.{name}")
    check_known(extra, tuple(get_type_hints(cls)), f"{where}.{name}")
    section = build(cls, given | extra, f"{FILE} {name}")
    for key, value in vars(section).items():
        least = LEAST.get(type(value))
        if least is not None and value < least:
            raise UserError(f"{FILE} {name}.{key} is {short(value)}; it must be at least {least}")
        if (name, key) in INTERVALS and value <= 0:
            raise UserError(f"{FILE} {name}.{key} is {short(value)}; it must be more than 0")
    return section
