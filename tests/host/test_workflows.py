"""Every workflow that ships, through the API and in a real browser. Run: see conftest.py

`tests/host/api/NAME.json` is what the browser makes of `workflows/NAME.json`: to change one, open
it in ComfyUI, then save it with "Export" and with "Export (API)" over the two.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import HERE, PACK_NAME, ROOT, SHIPPED
from PIL import Image
from workflow_kit import (
    EMPTY,
    FEW_STEPS,
    FIRST,
    NAMES,
    SAMPLERS,
    TRAINING,
    changed,
    check_boxes,
    drawn_anew,
    essence,
    forget_all,
    hurried,
    is_picture,
    need_llms,
    need_nodes,
    node_of,
    only_picture,
    prepare,
    read,
    same,
    saving,
)

OURS = ("LiDiT", "LLMDiff")  # how the types of the pack's nodes begin
STOCK = ("KSampler", "CLIPTextEncode")  # on which a note of ours may stand
NOTE = "What was noted here before no longer holds."  # as `host/node_notes.py` may say of any node
TITLE = 30  # height of a node's title, in the canvas's units


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_workflows_are_these():
    folders = {ROOT / "workflows", HERE / "api"}
    assert all({f.stem for f in folder.glob("*.json")} == set(NAMES) for folder in folders)


def test_the_newcomers_comes_first_in_the_order_of_names():
    assert sorted(NAMES) == NAMES and "first" in FIRST


def test_no_node_lies_on_another(name):
    check_boxes(read(name)[0], {str(n["id"]): _box(n) for n in read(name)[0]["nodes"]})


def _box(node: dict) -> list[float]:
    (x, y), (w, h) = node["pos"], node["size"]
    return [x, y - TITLE, w, h + TITLE]


def test_it_asks_for_a_prompt_and_a_seed_once(name):
    _, api = read(name)
    nodes = [node for node in api.values() if node["class_type"] != TRAINING]
    seeds = [n["inputs"]["seed"] for n in nodes if isinstance(n["inputs"].get("seed"), int)]
    seeds += [n["inputs"]["value"] for n in nodes if n["class_type"] == "PrimitiveInt"]
    assert len(seeds) == 1
    texts = [n["inputs"][k] for n in nodes for k in ("text", "value") if k in n["inputs"]]
    written = [text for text in texts if isinstance(text, str) and text]
    assert len(written) == len(set(written)) > 0


def test_new_nodes_begin_as_the_stickers_want_them(server):
    """But for the words and the seed; the second LLM is no default."""
    known, own = server.get("/object_info"), ("text", "seed")
    nodes = [*read(FIRST)[1].values(), *read(NAMES[2])[1].values()]
    checked = 0
    for node in [node for node in nodes if node["class_type"].startswith(OURS)]:
        puts = known[node["class_type"]]["input"]
        kinds = {**puts.get("required", {}), **puts.get("optional", {})}
        for name, value in node["inputs"].items():
            if not isinstance(value, list) and name not in own and value != "gemma-3-270m":
                kind, *options = kinds[name]
                listed = kind if isinstance(kind, list) else options[0].get("options", [None])
                assert value == options[0].get("default", listed[0]), (node["class_type"], name)
                checked += 1
    assert checked > 30


def test_it_says_which_packs_its_nodes_are_from(name):
    for node in read(name)[0]["nodes"]:
        pack = "lidit" if node["type"].startswith(OURS) else "comfy-core"
        said = node["properties"]
        assert node["type"] == "MarkdownNote" or (said["cnr_id"] == pack and said["ver"])


def test_the_first_shows_the_instruction_and_how_the_words_were_read():
    _, api = read(FIRST)
    template, shown = node_of(api, "LiDiTInstructionTemplate"), node_of(api, "PreviewAny")
    assert api[node_of(api, "LiDiTLLMLoader")]["inputs"]["custom_template"] == [template, 0]
    encode, output = api[shown]["inputs"]["source"]
    assert api[encode]["class_type"] == "LiDiTTextEncode" and output == 1  # info


def test_the_first_is_an_app_of_a_prompt_a_seed_and_a_picture():
    """What the frontend's app mode shows, each a widget or an output that is there."""
    ui, api = read(FIRST)
    app = ui["extra"]["linearData"]
    asked = [api[str(node)]["inputs"][widget] for node, widget in app["inputs"]]
    assert isinstance(asked[0], str) and asked[0] and isinstance(asked[1], int)
    assert [api[str(node)]["class_type"] for node in app["outputs"]] == ["SaveImage"]


def kept(ui: dict) -> tuple:
    """What a reader sees of a workflow, and what runs."""
    nodes = {
        n["id"]: (
            *(n["type"], n.get("title"), [round(x) for x in n["pos"]]),
            *(n.get("color"), n.get("widgets_values") or None, n["properties"].get("cnr_id")),
        )
        for n in ui["nodes"]
    }
    groups = [(g["title"], [round(x) for x in g["bounding"]]) for g in ui["groups"]]
    return nodes, sorted(link[1:] for link in ui["links"]), groups


def test_saving_it_again_changes_nothing(browser, server, name):
    ui, api = read(name)
    need_nodes(server, api)
    browser.open(ui)
    again = browser.saved()
    assert kept(again) == kept(ui)
    browser.open(again)
    assert essence(browser.to_api()) == essence(api)


def test_from_api_to_workflow_and_back_it_is_the_same(browser, server, name):
    _, api = read(name)
    need_nodes(server, api)
    made = browser.from_api(api, name)
    browser.open(made)
    assert essence(browser.to_api()) == essence(api)


def test_it_opens_in_the_browser_as_it_is_queued(browser, server, name):
    ui, api = read(name)
    need_nodes(server, api)
    assert browser.open(ui) == [] and browser.alerts() == []
    assert essence(browser.to_api()) == essence(api)


def test_it_draws_when_run_in_the_browser(browser, server, host, name):
    """And what it then tells on its nodes covers no other node, on either canvas."""
    ui, api = read(name)
    prepare(server, api)
    forget_all(server)  # a node whose result is known tells nothing
    before = set(server.get("/history"))
    browser.open(ui)
    browser.set(TRAINING, "steps", FEW_STEPS)
    browser.run()
    (entry,) = server.wait_for_new(before)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    images = {i: entry["outputs"][i]["images"] for i in saving(api)}
    assert all(is_picture(server.picture(image)) for found in images.values() for image in found)
    assert browser.alerts() == [] and browser.our_errors() == []
    browser.page.wait_for_timeout(1000)  # texts and pictures come onto the nodes
    outputs = entry["outputs"].items()
    telling = {i for i, out in outputs if api[i]["class_type"].startswith(OURS) and "text" in out}
    assert telling and set(browser.told()) >= telling
    browser.tell([n["id"] for n in ui["nodes"] if n["type"] in STOCK], NOTE)
    check_boxes(ui, browser.boxes(False))
    if host.version.startswith("0.3."):
        return  # its Nodes 2.0 are an early trial
    from host_browser import MODERN

    browser.setting(MODERN, True)
    try:
        check_boxes(ui, browser.boxes(True))
    finally:
        browser.setting(MODERN, False)


@pytest.mark.parametrize(
    "name", [FIRST, *(pytest.param(n, marks=pytest.mark.long) for n in NAMES[1:])]
)
def test_it_draws_through_the_api(server, name):
    """The browser draws every one of them in each run."""
    _, api = read(name)
    prepare(server, api)
    run = server.draw(changed(hurried(api), SAMPLERS, seed=12345))
    assert run.ending == "execution_success", run.events[-1]
    assert not any("is far from" in text for texts in run.texts.values() for text in texts)
    pictures = [picture for node in saving(api) for picture in run.pictures[node]]
    assert len(pictures) == len(saving(api)) and all(is_picture(p) for p in pictures)


@pytest.mark.skipif(not SHIPPED.exists(), reason="needs the trained weights, to draw with both")
def test_the_command_line_draws_the_same_picture(server, tmp_path):
    """Only rounding differs: no channel of a pixel by more than 1 of 255."""
    _, api = read(FIRST)
    need_llms(api)
    asked = api[node_of(api, "KSampler")]["inputs"]
    prompt = api[asked["positive"][0]]["inputs"]["text"]
    words = ["generate", prompt, "--seed", str(asked["seed"]), "--steps", str(asked["steps"])]
    words += ["--cfg", str(asked["cfg"]), "--out", str(tmp_path / "picture.png")]
    subprocess.run([sys.executable, "-m", "lidit_core", *words], cwd=ROOT, check=True)
    pictures = (only_picture(server.draw(api)), Image.open(tmp_path / "picture.png"))
    ours, its = (np.asarray(picture.convert("RGB")).astype(int) for picture in pictures)
    assert np.abs(ours - its).max() <= 1


def test_they_are_served_as_templates(server):
    assert set(server.get("/workflow_templates")[PACK_NAME]) == set(NAMES)
    for name in NAMES:
        assert server.get(f"/api/workflow_templates/{PACK_NAME}/{name}.json") == read(name)[0]


def test_the_browser_lists_the_newcomers_first(browser):
    listed = "async () => await window.comfyAPI.api.api.getWorkflowTemplates()"
    assert browser.page.evaluate(listed)[PACK_NAME] == NAMES


@pytest.mark.skipif(not SHIPPED.exists(), reason="needs the trained weights, which draw them")
def test_each_has_a_picture_in_the_template_browser(name):
    with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 128


def test_two_clients_at_once_each_get_their_own(server, api):
    from host_server import Client

    apis = [changed(api, SAMPLERS, seed=seed, steps=6) for seed in (1, 2)]
    with Client(server) as first, Client(server) as second:
        clients = (first, second)
        ids = [client.queue(each) for client, each in zip(clients, apis)]
        drawn = [only_picture(client.wait(i)) for client, i in zip(clients, ids)]
        assert [set(client.runs) for client in clients] == [{i} for i in ids]
    assert not same(*drawn)
    for each, picture in zip(apis, drawn):  # what it draws alone
        assert same(drawn_anew(server, each), picture)


def test_cancel_stops_within_a_step_and_the_next_run_is_right(server, api):
    from host_server import Client

    long = changed(changed(api, EMPTY, width=512, height=512), SAMPLERS, steps=200, seed=3)
    with Client(server) as client:
        prompt_id = client.queue(long)
        while True:
            kind, data = client.listen(prompt_id)
            if kind == "progress" and data["value"] >= 3:
                break
        server.post("/interrupt", {})
        answered = time.monotonic()
        run = client.wait(prompt_id)
    assert run.ending == "execution_interrupted"
    later = [data for at, kind, data in run.events if kind == "progress" and at > answered]
    assert len(later) <= 1, f"{len(later)} steps after the host had answered"
    short = changed(api, SAMPLERS, steps=6, seed=4)
    after = server.draw(short)
    assert node_of(short, "KSampler") not in after.cached
    assert same(only_picture(after), drawn_anew(server, short))


def test_another_negative_prompt_encodes_nothing_else(server, api):
    """The loaders' and the positive prompt's results stay; sampling starts over."""
    server.draw(api)
    sampler = api[node_of(api, "KSampler")]["inputs"]
    negative, positive = sampler["negative"][0], sampler["positive"][0]
    other = copy.deepcopy(api)
    other[negative]["inputs"]["text"] = "a green frog"
    run = server.draw(other)
    ran = {data["node"] for data in run.of_type("executing") if data["node"]}
    assert ran >= {negative, node_of(api, "KSampler")}
    kept = {positive, node_of(api, "LiDiTLLMLoader"), node_of(api, "LiDiTModelLoader")}
    assert kept <= run.cached and not kept & ran
