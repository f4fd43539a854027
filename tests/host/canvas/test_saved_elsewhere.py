"""Workflows that another system or an earlier version saved load here. Run: see conftest.py"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE
from load_probe import OF_FILES
from workflow_kit import NAMES, essence, is_picture, need_llms, only_picture, prepare, read, same

FIRST = HERE / "cases" / "first"  # workflows as they were before any node had got another input
FOLDER = "from elsewhere"
CONTROLS = ("fixed", "randomize", "increment", "decrement")  # of a seed, which the canvas keeps


def listed(node: type) -> dict[str, list[str]]:
    """What a node offers of the model folders, by input."""
    given = node.GET_NODE_INFO_V1()["input"]
    puts = {**given.get("required", {}), **given.get("optional", {})}
    offered = {
        name: spec[0] if isinstance(spec[0], list) else spec[1].get("options", [])
        for name, spec in puts.items()
        if isinstance(spec[0], list) or spec[0] == "COMBO"
    }
    return {name: offered[name] for name in offered if name in OF_FILES}


def test_every_list_of_files_names_them_as_every_system_does(pack, monkeypatch):
    """As on Windows, whose host lists names with backslashes."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_filename_list", lambda _: ["mine\\one.safetensors"])
    lists = [listed(node) for node in pack.classes.values()]
    names = [name for offered in lists for names in offered.values() for name in names]
    assert names.count("mine/one.safetensors") >= 5
    assert [name for name in names if "\\" in str(name)] == []


@pytest.mark.parametrize("separator", ["/", "\\"], ids=["linux", "windows"])
def test_a_workflow_that_either_system_saved_draws(browser, server, separator):
    """A refiner in a folder, which the two write differently, through the canvas and the queue."""
    ui, api = read(NAMES[4])
    prepare(server, api)
    plain = api["3"]["inputs"]["refiner_name"]
    folder = server.base / "models" / "diffusion_models"
    (folder / FOLDER).mkdir(exist_ok=True)
    shutil.copy(folder / plain, folder / FOLDER)
    ui, name = copy.deepcopy(ui), f"{FOLDER}{separator}{plain}"
    (loader,) = (node for node in ui["nodes"] if node["type"] == "LiDiTRefinerLoader")
    loader["widgets_values"][0] = name
    loader["widgets_values_named"]["refiner_name"] = name
    assert browser.open(ui) == [] and browser.alerts() == []
    queued = browser.to_api()
    assert queued["3"]["inputs"]["refiner_name"] == name
    assert same(only_picture(server.draw(queued)), only_picture(server.draw(api)))


def first(name: str) -> dict[str, Any]:
    return json.loads((FIRST / f"{name}.json").read_text(encoding="utf-8"))


def widgets(ui: dict[str, Any]) -> dict[str, list[Any]]:
    """What was written into each node, as it was saved."""
    return {str(node["id"]): node.get("widgets_values") or [] for node in ui["nodes"]}


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(FIRST).glob("*.json")))
def test_a_workflow_of_the_first_version_opens_in_the_browser(browser, server, name):
    """Each value stands where it stood, and inputs that came since have their defaults."""
    ui, known = first(name), server.get("/object_info")
    assert browser.open(ui) == [] and browser.alerts() == []
    api = browser.to_api()
    drawn = {str(node["id"]) for node in ui["nodes"] if node["type"] != "MarkdownNote"}
    assert set(api) == drawn
    for i, values in widgets(ui).items():
        if i in drawn:
            check_values(values, api[i], known[api[i]["class_type"]]["input"])


def check_values(values: list[Any], queued: dict[str, Any], puts: dict[str, Any]) -> None:
    """What was saved comes first; what follows is the default of an input that came since."""
    own = [(k, v) for k, v in queued["inputs"].items() if not isinstance(v, list)]
    kept = [value for value in values if value not in CONTROLS]
    assert [value for _, value in own[: len(kept)]] == kept, queued["class_type"]
    options = {**puts.get("required", {}), **puts.get("optional", {})}
    for name, value in own[len(kept) :]:
        assert value == options[name][1]["default"], f"{queued['class_type']}: {name}"


def test_the_first_workflow_ever_draws_in_the_browser(browser, server):
    browser.open(first("text_to_image"))
    api = browser.to_api()
    need_llms(api)
    before = set(server.get("/history"))
    browser.run()
    (entry,) = server.wait_for_new(before)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    assert essence(entry["prompt"][2]) == essence(api)
    (images,) = (out["images"] for out in entry["outputs"].values() if "images" in out)
    assert is_picture(server.picture(images[0]))
