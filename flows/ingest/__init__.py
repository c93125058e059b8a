"""Ingest: new normal images join a category's training set, all that cannot is set aside with its reason.

Steps, each of which may be repeated without harm:

    fetch → judge → write the journal → move every file → dvc add → note what was validated → push → commit →
    close the journal

Before the journal is written nothing has happened; after it, whoever comes next finishes the rest. What
data.dvc names is therefore the old version or the new one, and never a part of one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from components import settings, stage
from components.errors import UserError
from flows import fixity, plant, validated
from flows.adapters import versioning
from flows.ingest import files, journal, judge, landing
from flows.ingest.journal import Batch, Fate
from flows.ingest.judge import Scorer, Validator

__all__ = ["IngestReport", "Scorer", "ingest", "release"]

AGAIN = "run the ingest again when it has ended, its decisions are kept"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestReport:
    """What became of the files of one ingest, and of an earlier one that it finished."""

    category: str
    accepted: tuple[Fate, ...] = ()
    held: tuple[Fate, ...] = ()
    quarantined: tuple[Fate, ...] = ()
    duplicates: tuple[Fate, ...] = ()
    left: tuple[Fate, ...] = ()  # judged, then taken away or rewritten by someone before they could be moved
    unsettled: int = 0  # files that may still be being written; the next ingest takes them
    data_md5: str = ""  # data.dvc's, "" when nothing is versioned yet
    commit: str = ""  # sha on the configured branch, "" when none was configured or nothing was accepted
    docs: str = ""  # Data Docs, relative to the workspace
    model: str = ""  # the champion that looked, "" when none serves yet


def ingest(
    root: Path,
    category: str,
    place: Path | str | None = None,
    branch: str | None = None,
    scorer: Callable[[Path, str], Scorer | None] = judge.champion,
    validator: Validator = judge.validate,
) -> IngestReport:
    """Take in what waits in `place` (default: the setting), a folder or an fsspec address.

    `branch` gets the commit of data.dvc (default: the setting; "" for none). Good images end up in
    data/<category>/train/good, those that the champion finds defective in held/<category>, all others in
    quarantine/<category>, each with a JSON of the same name that says why. An ingest that a crash left
    unfinished is finished first. Raises UserError while another process ingests or retrains the category,
    for an unknown category, and when a remote does not answer; decisions taken are then kept. A branch that cannot be,
    a data/ that lacks whole categories, and a landing folder that holds the workspace's own files or that images may
    not be moved out of, are refused before anything moves.
    """
    dataset = settings.load(root, category).dataset
    wanted = plant.load(root, category)
    where = wanted.landing(root, category) if place is None else str(place)
    if place is not None and not landing.is_remote(where) and not landing.folder_of(where).is_dir():
        raise UserError(f"{where} is no folder; name the one where new images land")
    landing.check_apart(root, where)
    versioning.check(root)
    versioning.check_complete(root)
    target = _branch(root, wanted.ingest.branch if branch is None else branch)
    with journal.alone(root, category):
        report = resume(root, category, target)
        waiting = landing.waiting(root, category, where)
        ready = [item for item in waiting if item.age >= wanted.ingest.settle]
        if ready:
            base = landing.fetch(root, category, where, ready)
            reached("fetched")
            champion = scorer(root, category)
            spot = judge.Place(root, category, base, dataset.max_megapixels, wanted.ingest)
            fates, docs = judge.judge(spot, [item.name for item in ready], dataset, validator, champion)
            reached("judged")
            if landing.is_remote(where):
                identities = {item.name: item.identity for item in ready}
                fates = [replace(fate, remote=identities[fate.name]) for fate in fates]
            closed = tuple(replace(fate, reasons=("may not be read",)) for fate in fates if not fate.sha256)
            fates = [fate for fate in fates if fate.sha256]
            done = _finish(root, _written(root, Batch(category, where, target, _now(), tuple(fates), docs)))
            report = _joined(report, replace(done, left=done.left + closed, model=champion.model if champion else ""))
        return replace(report, unsettled=len(waiting) - len(ready), data_md5=_data_md5(root))


def release(
    root: Path, category: str, held: Sequence[Path], by: str, why: str, branch: str | None = None
) -> IngestReport:
    """Let images that the champion held join the training set after all, on a person's word.

    `held` names files in held/<category>; `branch` is as for `ingest`. Raises UserError for any other file, and
    without name or reason.
    """
    if not by.strip() or not why.strip():
        raise UserError("a release is signed: say who decides (--by) and why (--why)")
    settings.load(root, category)
    versioning.check(root)
    versioning.check_complete(root)
    target = _branch(root, plant.load(root, category).ingest.branch if branch is None else branch)
    folder = (root / "held" / category).resolve()
    with journal.alone(root, category):
        before = resume(root, category, target)
        fates: list[Fate] = []
        taken: set[str] = set()
        for given in held:
            path = given if given.exists() else folder / given
            note = path.with_name(f"{path.name}.json")
            if path.resolve().parent != folder or not path.is_file() or not note.is_file():
                raise UserError(f"{given} is not held for '{category}'; see the images in held/{category}")
            digest = files.sha256(path)
            kept = stage.read_json(note)
            fate = Fate(
                path.name, str(path.resolve()), digest, "accepted",
                judge.free_target(root, category, "accepted", path.name, digest, taken),
                tuple(kept["reasons"]), kept["score"], kept["threshold"], kept["model"], by=by, why=why,
            )  # fmt: skip
            fates.append(fate)
        batch = Batch(category, str(folder), target, _now(), tuple(fates))
        report = _joined(before, _finish(root, _written(root, batch)))
        return replace(report, data_md5=_data_md5(root))


def resume(root: Path, category: str, branch: str) -> IngestReport:
    """Finish a batch that a dead process left; the caller holds the lock. An empty report when there is none.

    The commit goes to `branch`, and only where that is "" to the one that the batch was begun for: what could not be
    committed to must not keep every later ingest from its work.
    """
    batch = journal.read(root, category)
    if batch is None:
        return IngestReport(category)
    log.warning("%s: finishing the ingest of %s", category, batch.started)
    if not branch:
        try:
            branch = _branch(root, batch.branch)
        except UserError as error:
            log.warning("%s: data.dvc is not committed: %s", category, error)
    return _finish(root, replace(batch, branch=branch))


def _branch(root: Path, name: str) -> str:
    """The name, "" for none; UserError when no commit can be put on such a branch."""
    if name:
        versioning.check_branch(root, name)
    return name


def _written(root: Path, batch: Batch) -> Batch:
    files.check_movable(Path(fate.source) for fate in batch.fates)
    journal.write(root, batch)
    reached("journal written")
    return batch


def _finish(root: Path, batch: Batch) -> IngestReport:
    """Carry out a journal, from wherever it stands, and close it."""
    commit = ""
    with journal.standing_still(root, batch.category, AGAIN):
        left = _carry_out(root, batch)
        reached("all moved")
        accepted = [fate for fate in batch.of("accepted") if fate not in left]
        if accepted:
            versioning.add_data(root)
            reached("versioned")
            prefix = f"data/{batch.category}/"
            validated.extend(root, batch.category, [fate.target.removeprefix(prefix) for fate in accepted])
            reached("validated")
    if accepted:
        _push(root)
        reached("pushed")
        if batch.branch:
            commit = _commit(root, batch.branch, _message(batch, len(accepted)))
        reached("committed")
    landing.remember(root, batch.category, [fate.remote for fate in batch.fates if fate.remote and fate not in left])
    journal.close(root, batch)
    reached("closed")
    moved = replace(batch, fates=tuple(fate for fate in batch.fates if fate not in left))
    return IngestReport(
        batch.category,
        accepted=moved.of("accepted"),
        held=moved.of("held"),
        quarantined=moved.of("quarantined"),
        duplicates=moved.of("duplicate"),
        left=tuple(left),
        commit=commit,
        docs=batch.docs,
    )


def _carry_out(root: Path, batch: Batch) -> list[Fate]:
    try:
        return journal.carry_out(root, batch, reached)
    except PermissionError as error:
        told = f"{error.filename} may not be moved or written ({error.strerror})"
        raise files.PassingError(
            f"{told}; mend its folder's permissions and ingest again, decisions are kept"
        ) from error


def _push(root: Path) -> None:
    if not fixity.Objects.of(root).remote:
        return
    try:
        versioning.push(root)
    except UserError as error:
        raise files.PassingError(f"{error}; the images are in and versioned, the next ingest copies them") from error


def _commit(root: Path, branch: str, message: str) -> str:
    try:
        return versioning.commit_data(root, branch, message)
    except UserError as error:
        raise files.PassingError(f"{error}; the images are in and versioned, the next ingest commits them") from error


def _message(batch: Batch, accepted: int) -> str:
    aside = len(batch.fates) - accepted
    released = sorted({f"{fate.by}: {fate.why}" for fate in batch.fates if fate.by})
    what = f"released by {'; '.join(released)}" if released else f"from {batch.landing}, {aside} set aside"
    return f"{batch.category}: {accepted} new image{'s' if accepted != 1 else ''}, {what}"


def _joined(earlier: IngestReport, later: IngestReport) -> IngestReport:
    both = ("accepted", "held", "quarantined", "duplicates", "left")
    lists = {name: getattr(earlier, name) + getattr(later, name) for name in both}
    return replace(later, **lists, commit=later.commit or earlier.commit, docs=later.docs or earlier.docs)


def _data_md5(root: Path) -> str:
    return versioning.data_md5(root) if (root / "data.dvc").is_file() else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def reached(step: str) -> None:
    """Note that a step is done."""
    log.debug("ingest step: %s (process %s)", step, os.getpid())
