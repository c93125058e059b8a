"""Watch: look at the landing place, and say when what waits there is worth an ingest and a retraining."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows import plant
from flows.ingest import files, journal, landing

ANSWER = timedelta(hours=1)  # an announcement that no ingest answered in this time counts as lost


@dataclass(frozen=True)
class Sight:
    """What one look at the landing place found."""

    images: int  # files that wait and are no longer being written
    digest: str  # of what waits, "" when nothing does
    due: bool  # enough of them, or for long enough, and not announced yet
    reason: str


@dataclass(frozen=True)
class _Memory:
    """What the looks before this one left."""

    since: str = ""  # when something began to wait, ISO 8601
    announced: str = ""  # digest of the last announcement
    when: str = ""  # of that announcement

    def until(self, now: datetime) -> _Memory:
        """What of it is not ahead of `now`: a clock moved back must not silence the watch until it catches up."""
        since = self.since if not self.since or datetime.fromisoformat(self.since) <= now else now.isoformat()
        known = not self.when or datetime.fromisoformat(self.when) <= now
        return _Memory(since, self.announced, self.when) if known else _Memory(since)


def look(root: Path, category: str, now: datetime | None = None) -> Sight:
    """Compare the landing place with what was last announced; nothing is announced here.

    Due are `watch.images` files at once, fewer after `watch.patience` hours, and an ingest that a crash
    left open, every hour until one has closed it. One digest is due once; should it still wait after another
    `patience`, once more, so that a failed ingest does not go unnoticed for ever.
    """
    now = now or datetime.now(UTC)
    settings = plant.load(root, category)
    waiting = landing.waiting(root, category, settings.landing(root, category))
    settled = [item for item in waiting if item.age >= settings.ingest.settle]
    interrupted = journal.path(root, category).exists()
    before = _recall(root, category).until(now)
    if not settled and not interrupted:
        if before.since:
            _remember(root, category, _Memory(announced=before.announced, when=before.when))
        return Sight(0, "", False, "nothing waits")
    digest = landing.digest(settled) if settled else "interrupted"
    if not before.since:
        before = _Memory(now.isoformat(), before.announced, before.when)
        _remember(root, category, before)
    patience = timedelta(hours=settings.watch.patience)
    if before.when and _unanswered(root, category, datetime.fromisoformat(before.when), now):
        return Sight(len(settled), digest, False, "announced, and not yet ingested")
    if interrupted:
        return Sight(len(settled), digest, True, "an earlier ingest was interrupted")
    if before.announced == digest and now - datetime.fromisoformat(before.when) < patience:
        return Sight(len(settled), digest, False, "announced already")
    if len(settled) >= settings.watch.images:
        return Sight(len(settled), digest, True, f"{len(settled)} images wait")
    if now - datetime.fromisoformat(before.since) >= patience:
        return Sight(len(settled), digest, True, f"the first of {len(settled)} images has waited long enough")
    return Sight(len(settled), digest, False, f"{len(settled)} of {settings.watch.images} images")


def _unanswered(root: Path, category: str, when: datetime, now: datetime) -> bool:
    """Whether no ingest has begun since the announcement: it will take in what came later as well."""
    batches = [path.stat().st_mtime for path in (journal.home(root, category) / "done").glob("*.json")]
    return now - when < ANSWER and max(batches, default=0.0) < when.timestamp()


def announced(root: Path, category: str, digest: str, now: datetime | None = None) -> None:
    """Note that the event for `digest` went out, so that the next look stays silent about it."""
    since = _recall(root, category).since
    _remember(root, category, _Memory(since, digest, (now or datetime.now(UTC)).isoformat()))


def _recall(root: Path, category: str) -> _Memory:
    try:
        return _Memory(**json.loads(_path(root, category).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return _Memory()


def _remember(root: Path, category: str, memory: _Memory) -> None:
    files.write_json(_path(root, category), vars(memory))


def _path(root: Path, category: str) -> Path:
    return journal.home(root, category) / "watch.json"
