"""What a run did: one record per stage and category, for tables, JSON and exit codes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

StageState = Literal["ran", "restored", "skipped", "failed", "not run", "stopped"]


@dataclass(frozen=True)
class StageOutcome:
    """How one stage ended, and why that way."""

    stage: str
    category: str
    # ran; restored: outputs came from the cache of an earlier, equal run; skipped: nothing had changed;
    # not run: something before it failed; stopped: on request
    state: StageState
    seconds: float
    reason: str

    @property
    def name(self) -> str:
        """STAGE@CATEGORY, DVC's address."""
        return f"{self.stage}@{self.category}"


@dataclass(frozen=True)
class CategoryOutcome:
    """All stages of one category in order, and what publishing came to (None when it came to nothing)."""

    category: str
    stages: tuple[StageOutcome, ...]
    publication: Any = None

    @property
    def error(self) -> str:
        """Why the category's chain did not reach its end, "" when it did."""
        bad = [s for s in self.stages if s.state in ("failed", "stopped")]
        if not bad and self.publication is None:
            bad = [s for s in self.stages if s.state == "not run"] or [*self.stages[-1:]]
        return f"{bad[0].stage}: {bad[0].reason}" if bad else ""

    @property
    def refused(self) -> bool:
        """Whether the gates refused the model."""
        return self.publication is not None and self.publication.status == "refused"

    @property
    def ok(self) -> bool:
        """Whether every stage succeeded and the gates passed."""
        return not self.error and not self.refused and self.publication is not None

    @property
    def verdict(self) -> str:
        """One word or line for `status`."""
        return self.error or (self.publication.status if self.publication is not None else "not published")

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "category": self.category,
            "ok": self.ok,
            "error": self.error,
            "refused": self.refused,
            "stages": [asdict(stage) for stage in self.stages],
            "publication": plain(self.publication),
        }


def remember(root: Path, outcome: CategoryOutcome) -> None:
    """Keep how a category's last run ended, for `kintsugi status`."""
    path = _memory(root, outcome.category)
    path.parent.mkdir(parents=True, exist_ok=True)
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    kept = {"ended": ended, "verdict": outcome.verdict, **outcome.as_json()}
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(kept, indent=2), encoding="utf-8")
    scratch.replace(path)


def recall(root: Path, category: str) -> dict[str, Any] | None:
    """Return what `remember` kept, None when the category never ran here."""
    try:
        kept: dict[str, Any] = json.loads(_memory(root, category).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return kept


def _memory(root: Path, category: str) -> Path:
    return root / ".kintsugi" / "runs" / f"{category}.json"


def plain(value: Any) -> Any:
    """Turn dataclasses, tables and paths into what json.dumps takes."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(each) for key, each in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each) for each in value]
    if hasattr(value, "to_dict"):  # a pandas table
        return plain(value.to_dict("records"))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of an error message: the closest known name, or all of them."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if match:
        return f"; did you mean '{match[0]}'?"
    return f"; known: {', '.join(known)}" if known else "; import one first"
