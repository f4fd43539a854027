"""Graphs that drew ruins or ended in a traceback once, as they were reported. Host's Python.

Each lies in `cases/` in the API format; node 30 is what was put into a graph that works.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workflow_kit import is_picture, only_picture

CASES = Path(__file__).parent / "cases"
ADDED = "30"


def case(name: str) -> dict[str, Any]:
    return json.loads((CASES / f"{name}.json").read_text())


def without(api: dict[str, Any], through: str) -> dict[str, Any]:
    """The same graph with what goes into the added node's input where the node was."""
    left = copy.deepcopy(api)
    link = left.pop(ADDED)["inputs"][through]
    for node in left.values():
        node["inputs"] = {k: link if v == [ADDED, 0] else v for k, v in node["inputs"].items()}
    return left


def distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference, 0 to 255."""
    a, b = (np.asarray(picture.convert("RGB"), np.float32) for picture in (a, b))
    return float(np.abs(a - b).mean())


def drawn(server, api: dict[str, Any]) -> Image.Image:
    run = server.draw(api)
    assert run.ending == "execution_success", run.error
    return only_picture(run)


@pytest.mark.parametrize(
    ("name", "most"), [("modelsampling_auraflow", 0.5), ("easycache_fp32", 8.0), ("renormcfg", 8.0)]
)
def test_a_stock_node_changes_the_picture_no_more_than_it_should(server, name, most):
    """As they failed: 39 without AuraFlow's unit of time, 16 to 64 with a latent written into."""
    api = case(name)
    picture, plain = drawn(server, api), drawn(server, without(api, "model"))
    assert is_picture(plain) and distance(picture, plain) <= most


@pytest.mark.parametrize("name", ["first_text_to_image", "first_two_llms"])
def test_a_graph_of_the_first_workflows_still_draws(server, name):
    """As they were saved before any node had got another input."""
    from workflow_kit import need_llms

    api = case(name)
    need_llms(api)
    assert is_picture(drawn(server, api))


def test_an_llm_is_saved_on_a_cpu(server):
    run = server.draw(case("clipsave_cpu"))
    assert run.ending == "execution_success", run.error
    assert sum(path.stat().st_size for path in (server.base / "output" / "clip").iterdir()) > 1e8


def test_an_average_that_the_adapter_cannot_follow_is_refused_in_a_sentence(server):
    """It drew the first prompt, whose weight is 0, without a word."""
    run = server.draw(case("llmdiff_average"))
    assert run.ending == "execution_error"
    assert run.of_type("execution_error")[0]["node_type"] == "KSampler"
    assert "\n" not in run.error and "mixed or changed this conditioning" in run.error
    for way_out in ("write both into one prompt", "ConditioningCombine"):
        assert way_out in run.error
