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


def around(name: str, api: dict[str, Any]) -> dict[str, Any]:
    """A blueprint's nodes with those that a person connects to it: from a model to a saved file."""

    def of(kind: str) -> list[str]:
        return [i for i, node in api.items() if node["class_type"] == kind]

    def saved(images: list) -> dict[str, Any]:
        return plain("SaveImage", images=images, filename_prefix="LI-DiT/blueprint")

    if name == "Prompt to picture":
        return {**api, "picture": saved([*of("VAEDecode"), 0])}
    if name == "Two LLMs":
        more = {
            "model": plain(
                "LiDiTModelLoader", model_name="stickers.safetensors", weight_dtype="default"
            )
        }
        model, vae, side = ["model", 0], ["model", 1], 128
        positive, negative = of("LiDiTCollaborativeRefiner")
    else:
        more = {"checkpoint": plain("LLMDiffDemoCheckpoint")}
        (adapted,) = of("LLMDiffApply")
        api[adapted]["inputs"]["model"] = ["checkpoint", 0]
        for encode in of("CLIPTextEncode"):
            api[encode]["inputs"]["clip"] = ["checkpoint", 1]
        model, vae, side = [adapted, 0], ["checkpoint", 2], 64
        positive, negative = of("LLMDiffEncode")
    how = {"seed": 3, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    texts = {"positive": [positive, 0], "negative": [negative, 0]}
    return {
        **api,
        **more,
        "empty": plain("EmptySD3LatentImage", width=side, height=side, batch_size=1),
        "drawn": plain(
            "KSampler", model=model, latent_image=["empty", 0], denoise=1.0, **texts, **how
        ),
        "decoded": plain("VAEDecode", samples=["drawn", 0], vae=vae),
        "picture": saved(["decoded", 0]),
    }


def plain(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_each_draws_in_what_is_connected_to_it(browser, server, listed, name):
    browser.open(read(name))
    api = browser.to_api()
    need_llms(api)
    run = server.draw(around(name, api))
    assert run.ending == "execution_success", run.events[-1]
    assert is_picture(run.pictures["picture"][0])
