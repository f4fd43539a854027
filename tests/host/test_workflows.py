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
    NAMES,
    SAMPLERS,
    TRAINING,
    changed,
    drawn_anew,
    essence,
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


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_workflows_are_these():
    folders = {ROOT / "workflows", HERE / "api"}
    assert all({f.stem for f in folder.glob("*.json")} == set(NAMES) for folder in folders)


def test_no_node_lies_on_another(name):
    ui, _ = read(name)
    boxes = [(*node["pos"], *node["size"]) for node in ui["nodes"]]
    for i, (x, y, w, h) in enumerate(boxes):
        for u, v, s, t in boxes[:i]:
            assert x + w <= u or u + s <= x or y + h <= v - 30 or v + t <= y - 30


def test_it_opens_in_the_browser_as_it_is_queued(browser, server, name):
    ui, api = read(name)
    need_nodes(server, api)
    assert browser.open(ui) == [] and browser.alerts() == []
    assert essence(browser.to_api()) == essence(api)


def test_it_draws_when_run_in_the_browser(browser, server, name):
    ui, api = read(name)
    prepare(server, api)
    before = set(server.get("/history"))
    browser.open(ui)
    browser.set(TRAINING, "steps", FEW_STEPS)
    browser.run()
    (entry,) = server.wait_for_new(before)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    images = {i: entry["outputs"][i]["images"] for i in saving(api)}
    assert all(is_picture(server.picture(image)) for found in images.values() for image in found)
    assert browser.alerts() == []


def test_it_draws_through_the_api(server, name):
    _, api = read(name)
    prepare(server, api)
    run = server.draw(changed(hurried(api), SAMPLERS, seed=12345))
    assert run.ending == "execution_success", run.events[-1]
    pictures = [picture for node in saving(api) for picture in run.pictures[node]]
    assert len(pictures) == len(saving(api)) and all(is_picture(p) for p in pictures)


@pytest.mark.skipif(not SHIPPED.exists(), reason="needs the trained weights, to draw with both")
def test_the_command_line_draws_the_same_picture(server, tmp_path):
    """Only rounding differs: no channel of a pixel by more than 1 of 255."""
    _, api = read("text_to_image")
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
