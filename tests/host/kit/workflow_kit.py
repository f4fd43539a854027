"""The workflows that ship, as the tests read, change and judge them."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

HERE = Path(__file__).resolve().parents[1]  # tests/host
WORKFLOWS = HERE.parents[1] / "workflows"
NAMES = [  # in the order of the template browser
    "1_first_picture",
    "2_chinese_prompt",
    "3_two_llms",
    "4_image_to_image_and_inpainting",
    "5_exchange_the_llm",
    "6_grid_of_readings",
    "7_train_a_lora",
    "8_llm_for_your_checkpoint",
    "9_prompt_written_out",
]
FIRST, TRAINS, ADAPTS = NAMES[0], NAMES[6], NAMES[7]
SIZES = {(64, 64), (128, 128), (1084, 664)}  # of a picture, and of a grid of eight
SAMPLERS = ("KSampler", "LiDiTSampler")
EMPTY = "EmptySD3LatentImage"
DATA_SET, TRAINING = "LoadImageTextDataSetFromFolder", "TrainLoraNode"
FEW_STEPS = 2  # of a training that is only to run through
Api = dict[str, Any]


def read(name: str) -> tuple[dict[str, Any], Api]:
    """The workflow as it is opened, and as it is queued."""
    ui = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return ui, json.loads((HERE / "api" / f"{name}.json").read_text(encoding="utf-8"))


def graph(name: str) -> Api:
    """A graph of the tests' own, of stock nodes where there are any: "text_to_image" and others."""
    path = HERE / "kit" / "graphs" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def changed(api: Api, kind: str | tuple[str, ...], **inputs: Any) -> Api:
    """A copy with these inputs in all nodes of a kind."""
    api, kinds = copy.deepcopy(api), (kind,) if isinstance(kind, str) else kind
    found = [node for node in api.values() if node["class_type"] in kinds]
    assert found
    for node in found:
        node["inputs"].update(inputs)
    return api


def with_stock_encode(api: Api) -> Api:
    """A copy whose prompts go through the host's own text encode node, which shows no info."""
    stock = {i: n for i, n in copy.deepcopy(api).items() if n["class_type"] != "PreviewAny"}
    for node in stock.values():
        if node["class_type"] == "LiDiTTextEncode":
            node["class_type"] = "CLIPTextEncode"
    return stock


def node_of(api: Api, kind: str) -> str:
    (found,) = (i for i, node in api.items() if node["class_type"] == kind)
    return found


def essence(api: Api) -> dict[str, tuple]:
    """What runs; a newer host also sends what it previewed last, which no older one knows."""
    return {i: (node["class_type"], _inputs(node)) for i, node in api.items()}


def _inputs(node: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in node["inputs"].items() if not k.startswith("preview")}


def saving(api: Api) -> set[str]:
    return {i for i, node in api.items() if node["class_type"] == "SaveImage"}


def need_llms(api: Api) -> None:
    """Skip where an LLM of the workflow is not on this machine."""
    from lidit_core.llm.locate import available

    loaders = [n for n in api.values() if n["class_type"] == "LiDiTLLMLoader"]
    for name in {node["inputs"]["llm"] for node in loaders}:
        if not available(name):
            pytest.skip(f"needs the LLM {name}: lidit fetch {name}")


def need_nodes(server: Any, api: Api) -> None:
    """Skip where the host has not all nodes of the workflow."""
    lacking = {node["class_type"] for node in api.values()} - server.get("/object_info").keys()
    if lacking:
        pytest.skip(f"needs a newer ComfyUI, with its nodes {', '.join(sorted(lacking))}")


def prepare(server: Any, api: Api) -> None:
    """Skip where something that the workflow needs is not there; put its pictures in place."""
    need_nodes(server, api)
    need_llms(api)
    give_files(server, api)


def give_files(server: Any, api: Api) -> None:
    """Put what a workflow's note tells its user to put in place: pictures, a refiner."""
    for node in api.values():
        if node["class_type"] == DATA_SET:
            folder = node["inputs"]["folder"]
            shutil.copytree(WORKFLOWS / folder, server.base / "input" / folder, dirs_exist_ok=True)
        if node["class_type"] == "LiDiTRefinerLoader":
            write_refiner(server.base / "models" / "diffusion_models")


def write_refiner(folder: Path) -> None:
    """The refiner that a workflow loads, by the command that its note has."""
    (note,) = (n for n in read(NAMES[4])[0]["nodes"] if n["type"] == "MarkdownNote")
    (command,) = re.findall(r"^python -m (lidit_core .+)$", note["widgets_values"][0], re.M)
    environment = {**os.environ, "PYTHONPATH": str(WORKFLOWS.parent)}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / command.split()[-1]).exists():
        words = [sys.executable, "-m", *command.split()]
        subprocess.run(words, cwd=folder, env=environment, check=True)


def hurried(api: Api) -> Api:
    """The same, but for the length of a training."""
    trains = any(node["class_type"] == TRAINING for node in api.values())
    return changed(api, TRAINING, steps=FEW_STEPS) if trains else api


def is_picture(picture: Image.Image) -> bool:
    """Of the size asked for, and with something on it."""
    return picture.size in SIZES and max(ImageStat.Stat(picture.convert("RGB")).stddev) > 4


def same(a: Image.Image, b: Image.Image) -> bool:
    return ImageChops.difference(a.convert("RGB"), b.convert("RGB")).getbbox() is None


def only_picture(run: Any) -> Image.Image:
    assert run.ending == "execution_success", run.events[-1]
    ((picture,),) = filter(None, run.pictures.values())
    return picture


def check_boxes(ui: dict[str, Any], boxes: dict[str, list[float]]) -> None:
    """No node overlaps another, and each lies in one group or in none."""
    assert len(boxes) == len(ui["nodes"])
    laid = list(boxes.items())
    over = [
        (a, b) for i, (a, box) in enumerate(laid) for b, other in laid[:i] if _overlap(box, other)
    ]
    assert over == [], [(a, boxes[a], b, boxes[b]) for a, b in over]
    groups = [group["bounding"] for group in ui["groups"]]
    hung = [i for i, box in laid if any(_overlap(box, g) and not _within(box, g) for g in groups)]
    assert hung == [], "nodes hang out of their group"


def _overlap(a: list[float], b: list[float]) -> bool:
    (x, y, w, h), (u, v, s, t) = a, b
    return x < u + s and u < x + w and y < v + t and v < y + h


def _within(a: list[float], b: list[float]) -> bool:
    (x, y, w, h), (u, v, s, t) = a, b
    return u <= x and v <= y and x + w <= u + s and y + h <= v + t


def forget_all(server: Any) -> None:
    """Unload the models and drop every node's result, as the host's menu does."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1.5)  # the queue's thread does it, when it comes to it


def drawn_anew(server: Any, api: Api) -> Image.Image:
    """The picture when every node runs, whatever ran before."""
    for _ in range(10):
        forget_all(server)
        run = server.draw(api)
        if not run.cached:
            return only_picture(run)
    raise AssertionError("the host keeps results that it was told to drop")
