"""dvc.yaml's stages as nodes for the scheduler; DVC resolves them, nothing is written down twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from components.errors import UserError
from flows.adapters import versioning
from flows.outcome import nearest

# Stages that want the accelerator: they share the `gpu` slots so that two never fight over one device.
GPU_STAGES = frozenset({"train_vqvae", "extract_codes", "train_prior", "calibrate", "evaluate"})


@dataclass(frozen=True)
class StageNode:
    """One stage of one category and the stages that must have ended before it."""

    name: str  # STAGE@CATEGORY, DVC's address
    stage: str
    category: str
    upstream: tuple[str, ...]  # names of nodes
    gpu: bool


def load_graph(root: Path, categories: Sequence[str]) -> list[StageNode]:
    """Return the nodes of `categories`, each after all of its upstream nodes.

    `data.dvc`, which every category shares, is no node: the flow versions the data before it starts.
    Raises UserError for a category without stages; the nearest one is offered.
    """
    edges = versioning.stage_graph(root)
    known = sorted({name.partition("@")[2] for name in edges if "@" in name})
    for category in categories:
        if category not in known:
            raise UserError(f"unknown category '{category}'{nearest(category, known)}")
    wanted = {name for name in edges if name.partition("@")[2] in set(categories)}
    order = TopologicalSorter({name: [up for up in edges[name] if up in wanted] for name in sorted(wanted)})
    return [_node(name, tuple(up for up in edges[name] if up in wanted)) for name in order.static_order()]


def _node(name: str, upstream: tuple[str, ...]) -> StageNode:
    stage, _, category = name.partition("@")
    return StageNode(name, stage, category, upstream, stage in GPU_STAGES)
