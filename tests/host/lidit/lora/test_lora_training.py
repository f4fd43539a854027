"""The host's own nodes train a LoRA of our MODEL, on pictures and captions for our VAE and CLIP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import SHIPPED
from lora_pictures import LIGHT
from PIL import Image
from workflow_kit import TRAINS, Api, is_picture, node_of, prepare, read, same, saving

pytestmark = pytest.mark.long  # test_workflows.py trains this LoRA in an ordinary run
NEAR, FAR = 30, 60  # of a colour to another, in mean steps of 255 per channel


@pytest.fixture(scope="module")
def api(server: Any) -> Api:
    """The workflow that trains, as it is queued."""
    api = read(TRAINS)[1]
    prepare(server, api)
    return api


@pytest.fixture(scope="module")
def drawn(server: Any, api: Api) -> list[Image.Image]:
    """What the whole workflow draws: without the LoRA, with it."""
    run = server.draw(api)
    assert run.ending == "execution_success", run.error
    return [picture for node in sorted(saving(api), key=int) for picture in run.pictures[node]]


def to_the_light(picture: Image.Image) -> float:
    """How far the background's colour, the median, is from that of the light."""
    colour = np.median(np.asarray(picture.convert("RGB")), axis=(0, 1))
    return float(np.abs(colour - LIGHT).mean())


def from_file(api: Api, lora_name: str) -> Api:
    """The same with the LoRA of a file, and no training."""
    loader = node_of(api, "LoraModelLoader")
    inputs = {"model": api[loader]["inputs"]["model"], "lora_name": lora_name}
    stock = {"class_type": "LoraLoaderModelOnly", "inputs": {**inputs, "strength_model": 1.0}}
    of_training = ("TrainLoraNode", "SaveLoRA", "LossGraphNode")
    kept = {i: node for i, node in api.items() if node["class_type"] not in of_training}
    return {**kept, loader: stock}


@pytest.mark.skipif(not SHIPPED.exists(), reason="needs the trained weights, to train them further")
def test_the_lora_learns_the_light_of_its_pictures(drawn):
    without, with_lora = drawn
    assert to_the_light(without) > FAR and to_the_light(with_lora) < NEAR


def test_the_saved_lora_draws_the_same_in_the_stock_loader(server, api, drawn):
    without, with_lora = drawn
    assert all(map(is_picture, drawn)) and not same(without, with_lora)
    files = (server.base / "output" / "loras").glob("*.safetensors")
    newest = max(files, key=lambda file: file.stat().st_mtime)
    run = server.draw(from_file(api, newest.name))
    assert run.ending == "execution_success", run.error
    assert same(with_lora, run.pictures[max(saving(api), key=int)][0])
