"""`kintsugi status`: per category, what is fresh, what serves, what waits, how the last run went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.errors import UserError
from components.settings import read_params
from flows.adapters import versioning
from flows.graph import StageNode, load_graph
from flows.outcome import recall


@dataclass(frozen=True)
class StageStatus:
    """Whether a stage's recorded outputs still follow from its inputs, and why not."""

    stage: str
    fresh: bool
    reason: str


@dataclass(frozen=True)
class CategoryStatus:
    """One category's line; versions are numbers as text, "" for none."""

    category: str
    stages: tuple[StageStatus, ...]
    champion: str  # production version with the alias `champion`
    waiting: str  # staging versions that passed their gates and nobody has decided about, newest first: "3, 2"
    last_run: str  # when it ended (ISO 8601, UTC) and how, "" if it never ran here

    @property
    def summary(self) -> str:
        """`fresh`, or how many stages are stale."""
        stale = sum(not stage.fresh for stage in self.stages)
        return f"{stale} of {len(self.stages)} stale" if stale else "fresh"


def status(root: Path) -> list[CategoryStatus]:
    """Return every category of params.yaml; none of it changes anything."""
    categories = [str(name) for name in read_params(root)["categories"] or []]
    if not categories:
        raise UserError("there is no category yet; `kintsugi sample` makes one, `kintsugi import` brings one in")
    nodes = load_graph(root, categories)
    stale = versioning.stale_stages(root, [node.name for node in nodes])
    versions = _versions(root, categories)
    found = []
    for category in categories:
        own = [node for node in nodes if node.category == category]
        champion, waiting = versions[category]
        last = recall(root, category)
        told = f"{last['ended']} {last['verdict']}" if last else ""
        found.append(CategoryStatus(category, _stages(own, stale), champion, waiting, told))
    return found


def _stages(nodes: list[StageNode], stale: dict[str, list[str]]) -> tuple[StageStatus, ...]:
    """Add to the stages that are stale by themselves those that come after them."""
    reasons: dict[str, str] = {}
    for node in nodes:
        if node.name in stale:
            reasons[node.name] = "; ".join(stale[node.name])
        elif before := [up.partition("@")[0] for up in node.upstream if up in reasons]:
            reasons[node.name] = f"comes after {', '.join(before)}"
    return tuple(StageStatus(node.stage, node.name not in reasons, reasons.get(node.name, "")) for node in nodes)


def _versions(root: Path, categories: list[str]) -> dict[str, tuple[str, str]]:
    """Return category -> (champion, waiting) from the registry."""
    from flows.adapters import registry, tracking

    if not tracking.has_store(root):
        return dict.fromkeys(categories, ("", ""))  # asking would create the database
    client = tracking.connect(root)
    found = {}
    for category in categories:
        champion = registry.aliased(client, registry.production(category), registry.CHAMPION)
        found[category] = (champion, ", ".join(registry.waiting(client, category)))
    return found
