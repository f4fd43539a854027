"""The blueprints: graphs that a newer host offers as one node. Run: see conftest.py"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from conftest import PACK_NAME, ROOT
from workflow_kit import is_picture, need_llms

FOLDER = ROOT / "subgraphs"
NAMES = ["LLMDiff for my checkpoint", "Prompt to picture", "Two LLMs"]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def listed(server: Any, host: Any) -> dict[str, dict[str, Any]]:
    """What the host offers of this pack, by name."""
    if host.version.startswith("0.3."):
        pytest.skip("this host has no blueprints of packs")
    entries = server.get("/api/global_subgraphs")
    ours = f"custom_nodes.{PACK_NAME}"
    return {e["name"]: {**e, "id": i} for i, e in entries.items() if e["info"]["node_pack"] == ours}


def test_the_blueprints_are_these():
    assert sorted(path.stem for path in FOLDER.iterdir()) == NAMES


def test_the_host_offers_them(server, listed, name):
    assert set(listed) == set(NAMES)
    served = server.get(f"/api/global_subgraphs/{listed[name]['id']}")
    assert json.loads(served["data"]) == read(name)


def test_each_is_one_node_with_labelled_inputs(name):
    (node,), (graph,) = read(name)["nodes"], read(name)["definitions"]["subgraphs"]
    assert node["type"] == graph["id"] and graph["name"] == name and graph["description"]
    shown = [widget for _, widget in node["properties"]["proxyWidgets"]]
    assert shown[:2] == ["prompt", "negative prompt"] and len(set(shown)) == len(shown)
    assert [i["name"] for i in node["inputs"]] == [i["name"] for i in graph["inputs"]]
    assert [o["name"] for o in node["outputs"]] == [o["name"] for o in graph["outputs"]]


def test_what_is_written_on_the_node_reaches_the_graph(browser, listed, name):
    """The browser makes plain nodes of it, with the prompt where the LLM reads it."""
    ui = copy.deepcopy(read(name))
    at = [widget for _, widget in ui["nodes"][0]["properties"]["proxyWidgets"]].index("prompt")
    ui["nodes"][0]["widgets_values"][at] = "a green frog"
    assert browser.open(ui) == [] and browser.alerts() == []
    api = browser.to_api()
    inner = ui["definitions"]["subgraphs"][0]["nodes"]
    assert sorted(n["class_type"] for n in api.values()) == sorted(n["type"] for n in inner)
    assert any("a green frog" in node["inputs"].values() for node in api.values())


def test_the_first_draws(browser, server, listed):
    browser.open(read("Prompt to picture"))
    api = browser.to_api()
    need_llms(api)
    (decode,) = (i for i, node in api.items() if node["class_type"] == "VAEDecode")
    saved = {"images": [decode, 0], "filename_prefix": "LI-DiT/blueprint"}
    run = server.draw({**api, "99": {"class_type": "SaveImage", "inputs": saved}})
    assert run.ending == "execution_success", run.events[-1]
    assert is_picture(run.pictures["99"][0])
