"""The graph is DVC's: edges, order, and which stages want the accelerator."""

from __future__ import annotations

import pytest

from components.errors import UserError
from flows.graph import load_graph
from tests.conftest import REPO
from tests.toy import Toy


def test_nodes_come_after_what_they_need(toy: Toy) -> None:
    nodes = load_graph(toy.root, ["bolt", "tile"])
    seen: set[str] = set()
    for node in nodes:
        assert set(node.upstream) <= seen
        seen.add(node.name)
    assert len(nodes) == 6
    by_name = {node.name: node for node in nodes}
    assert set(by_name["evaluate@bolt"].upstream) == {"augment@bolt", "train_vqvae@bolt"}
    assert by_name["augment@tile"].upstream == ()  # data.dvc is no node


def test_only_the_categories_asked_for(toy: Toy) -> None:
    assert {node.category for node in load_graph(toy.root, ["tile"])} == {"tile"}


def test_gpu_stages(toy: Toy) -> None:
    assert {node.stage for node in load_graph(toy.root, ["tile"]) if node.gpu} == {"train_vqvae", "evaluate"}


def test_a_wrong_category_offers_the_nearest(toy: Toy) -> None:
    with pytest.raises(UserError, match="did you mean 'bolt'"):
        load_graph(toy.root, ["botl"])


def test_the_projects_own_graph_has_its_stages_in_order() -> None:
    stages = [node.stage for node in load_graph(REPO, ["brick"])]
    assert stages.index("augment") == 0
    assert stages.index("train_vqvae") < stages.index("extract_codes") < stages.index("train_prior")
    assert stages.index("calibrate") < stages.index("package") < stages.index("evaluate")
    assert len(stages) == 7
