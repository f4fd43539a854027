"""A node that is saved says its values twice, and a frontend may read either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = sorted([*(ROOT / "workflows").glob("*.json"), *(ROOT / "subgraphs").glob("*.json")])


def nodes_of(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from graph["nodes"]
    for subgraph in graph.get("definitions", {}).get("subgraphs", ()):
        yield from subgraph["nodes"]


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_values_by_name_are_the_values_in_order(path):
    """The list is read today, the names by frontends with "named values" switched on."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    nodes = [node for node in nodes_of(graph) if "widgets_values_named" in node]
    assert nodes
    for node in nodes:
        assert list(node["widgets_values_named"].values()) == node["widgets_values"], node["type"]
