"""Taking turns: a person's decision waits while a publication or another decision of the category is under way.

What the person saw when deciding is what is decided about: a version that comes out of the publication is not
the one that was meant, and a champion that changed meanwhile makes it another question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import UserError
from flows import record
from flows.adapters import registry, tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 120.0  # seconds; a publication takes less, unless it scores the champion on a large test set anew


@dataclass(frozen=True)
class Seen:
    """How the registry stood when the waiting began."""

    category: str
    newest: str | None  # newest staging version that someone or the gates had decided about
    champion: str  # production version that served, "" for none

    def still_holds(self, client: MlflowClient) -> None:
        """Raise UserError when another version serves by now."""
        name = registry.production(self.category)
        now = registry.aliased(client, name, registry.CHAMPION)
        if now != self.champion:
            told = f"{name} version {now}" if now else "no version"
            raise UserError(f"{told} serves since; see `kintsugi history {self.category}` and decide again")


@contextmanager
def taken(root: Path, category: str, tell: Callable[[str], None]) -> Iterator[tuple[MlflowClient, Seen | None]]:
    """Hold the category's promotion lock; yields a client, and what was seen if it had to wait.

    `tell` gets one line when the wait begins. UserError after PATIENCE seconds.
    """
    client = tracking.connect(root)
    seen: list[Seen] = []

    def waits() -> None:
        decided = [v for v in registry.versions(client, registry.staging(category)) if v.tags.get("promotion")]
        champion = registry.aliased(client, registry.production(category), registry.CHAMPION)
        seen.append(Seen(category, str(decided[0].version) if decided else None, champion))
        tell(f"a publication or decision of '{category}' is under way; waiting up to {PATIENCE:g} s for it")

    with record.exclusive(root, category, PATIENCE, waits):
        yield client, seen[0] if seen else None
