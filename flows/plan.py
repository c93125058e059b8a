"""What a run has to do: the graph's nodes in order, and why those that are stale by themselves are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import UserError
from flows.adapters import versioning
from flows.graph import StageNode, load_graph


@dataclass(frozen=True)
class Plan:
    """The nodes to run, each after its upstream, and why those that are stale by themselves are."""

    nodes: tuple[StageNode, ...]
    stale: dict[str, list[str]]


def read_nodes(root: Path, categories: Sequence[str]) -> tuple[StageNode, ...]:
    """The nodes of `categories`, in order.

    Raises UserError where there is no DVC repository, for an unknown category, or one without images.
    """
    versioning.check(root)
    nodes = tuple(load_graph(root, categories))
    for category in categories:
        if not (root / "data" / category).is_dir():
            raise UserError(
                f"category '{category}' has no images in data/{category}; import them, "
                "or bring them back with `dvc pull data.dvc`"
            )
    return nodes


def make_plan(root: Path, categories: Sequence[str]) -> Plan:
    """Read the graph, version the data as it lies there, and ask DVC once what is stale.

    Raises UserError as `read_nodes` does, for missing data, or for data that changed where another category is not
    here to be recorded with it.
    """
    nodes = read_nodes(root, categories)
    names = [node.name for node in nodes]
    if not (root / "data.dvc").is_file():
        versioning.add_data(root)
        return Plan(nodes, versioning.stale_stages(root, names))
    stale = versioning.stale_stages(root, ["data.dvc", *names])
    if stale.pop("data.dvc", None):
        versioning.add_data(root)
    return Plan(nodes, stale)
