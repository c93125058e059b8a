"""The verdict on waiting files: fit to train on, defective in the champion's eyes, unfit, or known already."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import pandas as pd

from components.dataset.images import SUFFIXES, read_image
from components.dataset.manifest import MASK_ENDING, Row
from components.errors import UserError
from components.settings import Dataset
from flows.ingest import files, journal, known
from flows.ingest.journal import Decision, Fate
from flows.plant import Ingest

NAME = re.compile(r"\w[\w .,+()=@-]*")  # letters and digits of any script, and what cameras put between them
LONGEST_NAME = 120
BATCH = 8  # images decoded at once for the champion


class Report(Protocol):
    """What flows.adapters.validation.validate returns, as far as it is needed here."""

    @property
    def failures(self) -> list[tuple[str, str]]:
        """One (path, reason) for each rule that a file breaks."""


Validator = Callable[[pd.DataFrame, Dataset, Path | None, Mapping[str, tuple[float, float]]], Report]


@dataclass(frozen=True)
class Scorer:
    """The champion, for ingest: images in, one score each; above `threshold` an image looks defective."""

    model: str  # production.<category>/<version>
    threshold: float
    score: Callable[[Sequence[np.ndarray]], list[float]]


@dataclass(frozen=True)
class Place:
    """Where the waiting files are, and what is known of the category they want to join."""

    root: Path
    category: str
    base: Path  # folder of the waiting files
    max_megapixels: float
    settings: Ingest


def judge(
    place: Place, names: Sequence[str], dataset: Dataset, validator: Validator, scorer: Scorer | None
) -> tuple[list[Fate], str]:
    """Decide the fate of the files `names` below `place.base`; returns them and where the Data Docs lie.

    Every file gets exactly one: duplicate (its bytes are in the data set, held, in quarantine or twice
    among `names`), quarantined (with every rule that it breaks), held (the champion's score is above its
    threshold), or accepted. Nothing is written but the Data Docs and a cache.
    """
    waiting = known.look(place.base, [Row(name, "train", 0, "good") for name in names], place.max_megapixels)
    cache = journal.home(place.root, place.category) / "known.parquet"
    images = known.images_of(place.root / "data" / place.category, cache, place.max_megapixels)
    waiting["sha256"] = [files.sha256(place.base / path) for path in waiting["path"]]  # of empty files, too
    repeats = _repeats(place, waiting, images)
    train = images[(images["part"] == "train") & (images["error"] == "")]
    single = waiting[[path not in repeats for path in waiting["path"]]].reset_index(drop=True)
    shown = single.drop(columns=known.THUMBNAIL)
    shown["error"] = _own_rules(place, single, images, train)
    shown["path"] = [_printable(path) for path in shown["path"]]
    docs = place.root / ".kintsugi" / "data-docs" / place.category / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    failures: dict[str, list[str]] = {}
    if len(shown):
        for path, reason in validator(shown, dataset, docs, known.ranges(train, place.settings.margin)).failures:
            failures.setdefault(path, []).append(reason.replace(f"{place.base}/", ""))
        _share_static(docs)
    good = [path for path in single["path"] if _printable(path) not in failures]
    scores = _scores(place, good, scorer)
    fates: list[Fate] = []
    taken: set[str] = set()
    for path, digest in zip(waiting["path"], waiting["sha256"], strict=True):
        fate = Fate(path, str(place.base / path), str(digest), "accepted", "")
        if path in repeats:
            fate = replace(fate, decision="duplicate", reasons=(repeats[path],))
        elif found := failures.get(_printable(path)):
            fate = replace(fate, decision="quarantined", reasons=tuple(dict.fromkeys(found)))
        elif path in scores and scorer is not None:
            fate = _scored(fate, scores[path], scorer)
        fates.append(
            replace(fate, target=free_target(place.root, place.category, fate.decision, path, str(digest), taken))
        )
    return fates, (docs / "index.html").relative_to(place.root).as_posix() if len(shown) else ""


def _share_static(docs: Path) -> None:
    """Each batch keeps its pages; the four megabytes of style and pictures around them are there once."""
    own, shared = docs / "static", docs.parent / "static"
    if not own.is_dir():
        return
    if shared.is_dir():
        shutil.rmtree(own)
    else:
        os.replace(own, shared)
    own.symlink_to("../static")


def _scored(fate: Fate, score: float, scorer: Scorer) -> Fate:
    fate = replace(fate, score=score, threshold=scorer.threshold, model=scorer.model)
    if score <= scorer.threshold:
        return fate
    told = f"looks defective to {scorer.model}: score {score:.4g} is above its threshold {scorer.threshold:.4g}"
    return replace(fate, decision="held", reasons=(told,))


def _repeats(place: Place, waiting: pd.DataFrame, images: pd.DataFrame) -> dict[str, str]:
    """Waiting path -> which other file has the same bytes."""
    owners = {str(sha): f"{place.category}/{path}" for path, sha in zip(images["path"], images["sha256"], strict=True)}
    for folder in ("held", "quarantine"):
        for note in sorted((place.root / folder / place.category).glob("*.json")):
            if note.with_suffix("").is_file():
                owners.setdefault(json.loads(note.read_text(encoding="utf-8"))["sha256"], f"{folder}/{note.stem}")
    owners.pop("", None)
    found = {}
    for path, sha in zip(waiting["path"], waiting["sha256"], strict=True):
        if sha in owners:
            found[path] = f"has the same bytes as {owners[sha]}"
        else:
            owners[sha] = f"{_printable(path)}, which landed with it"
    return found


def _own_rules(place: Place, single: pd.DataFrame, images: pd.DataFrame, train: pd.DataFrame) -> list[str]:
    """What is wrong with each file before its category's ranges are asked: "" or the reason.

    Names, near-duplicates, and whatever made it unreadable.
    """
    readable = images[images["error"] == ""]
    limit = known.near_limit(known.thumbnails_of(train), place.settings.near_duplicate)
    away = known.distances(known.thumbnails_of(single), known.thumbnails_of(readable))
    among = known.distances(known.thumbnails_of(single), known.thumbnails_of(single))
    flat = np.sqrt((known.thumbnails_of(single) ** 2).mean(1)) < 2 * limit  # no picture: all such are alike
    reasons: list[str] = []
    for at, (path, error) in enumerate(zip(single["path"], single["error"], strict=True)):
        reason = bad_name(path) or str(error)
        if not reason and not flat[at] and len(readable) and away[at].min() < limit:
            twin = readable["path"].iloc[int(away[at].argmin())]
            reason = f"is nearly the same picture as {place.category}/{twin}"
        earlier = [i for i in np.flatnonzero(among[at, :at] < limit) if not reasons[i]]
        if not reason and not flat[at] and earlier:
            reason = (
                f"is nearly the same picture as {_printable(single['path'].iloc[earlier[0]])}, which landed with it"
            )
        reasons.append(reason)
    return reasons


def bad_name(path: str) -> str:
    """Why a file of this name cannot join a data set, "" when it can."""
    name = PurePosixPath(path)
    if len(name.name.encode(errors="replace")) > LONGEST_NAME:
        return f"has a name of more than {LONGEST_NAME} bytes"
    if not NAME.fullmatch(name.name):
        return "has a name with characters that not every system can store"
    if name.suffix.lower() not in SUFFIXES:
        return f"is not an image (its name ends in '{name.suffix}')"
    if name.stem.endswith(MASK_ENDING):
        return f"looks like a mask (its name ends in {MASK_ENDING}), and masks belong to test images"
    return ""


def _scores(place: Place, paths: Sequence[str], scorer: Scorer | None) -> dict[str, float]:
    scores: dict[str, float] = {}
    for at in range(0, len(paths) if scorer else 0, BATCH):
        group = paths[at : at + BATCH]
        images = [read_image(place.base / path, place.max_megapixels) for path in group]
        assert scorer is not None
        scores |= dict(zip(group, scorer.score(images), strict=True))
    return scores


def champion(root: Path, category: str) -> Scorer | None:
    """The serving champion as a scorer; None when the category has no production version yet."""
    from flows import inspection
    from flows.adapters import registry, tracking

    name = registry.production(category)
    if not registry.aliased(tracking.connect(root), name, registry.CHAMPION):
        return None
    inspector, model = inspection.champion(root, category)
    return Scorer(model, inspector.image_threshold, lambda images: [seen.score for seen in inspector.inspect(images)])


def validate(manifest: pd.DataFrame, dataset: Dataset, docs: Path | None, bounds: Mapping[str, Any]) -> Report:
    """Great Expectations, imported (ten seconds) only when there is something to validate."""
    from flows.adapters import validation

    return validation.validate(manifest, dataset, docs, bounds)


FOLDERS: Mapping[Decision, str] = {"held": "held", "quarantined": "quarantine", "duplicate": "quarantine"}


def free_target(root: Path, category: str, decision: Decision, path: str, digest: str, taken: set[str]) -> str:
    """A place, relative to `root`, that no file has: its own name, else with part of its hash or a number.

    Files that are set aside get a note of the same name with `.json` appended, whose place is taken with theirs.
    """
    folder = f"data/{category}/train/good" if decision == "accepted" else f"{FOLDERS[decision]}/{category}"
    name = PurePosixPath(re.sub(r"[^\w .,+()=@-]", "_", PurePosixPath(path).name))
    stem = name.stem.lstrip("_.- ")[:80] or "unnamed"
    ending = name.suffix[:12]
    numbered = (f"{stem}-{digest[:8]}-{number}{ending}" for number in range(2, 100_000))
    for candidate in (f"{stem}{ending}", f"{stem}-{digest[:8]}{ending}", *numbered):
        target = f"{folder}/{candidate}"
        names = {target, f"{target}.json"}
        if not names & taken and not any((root / name).exists() for name in names):
            taken |= {target} if decision == "accepted" else names
            return target
    raise UserError(f"{folder} has too many files named {stem}; empty it")


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode() if path.isprintable() else ascii(path)[1:-1]
