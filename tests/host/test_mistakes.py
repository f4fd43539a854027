"""Mistakes on the canvas of a running host: a sentence on the right node, and the host goes on."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import ROOT, SHIPPED
from safetensors.torch import save_file
from workflow_kit import (
    Api,
    changed,
    forget_all,
    is_picture,
    node_of,
    only_picture,
    with_stock_encode,
)

from lidit_core.checkpoints.lidit import read_lidit, save_lidit

LEAK = 1.05  # of the memory that is held once everything was dropped
LLM_BYTES = 250 << 20  # of SmolLM2 at least, in bfloat16


@pytest.fixture(scope="module")
def files(base: Path) -> Path:
    """A latent of four channels, and an autoencoder where LI-DiTs are looked for."""
    latent = {"latent_tensor": torch.ones(1, 4, 16, 16), "latent_format_version_0": torch.ones(1)}
    save_file(latent, base / "input" / "four.latent")
    vae = ROOT / "lidit_core" / "weights" / "stickers-vae.safetensors"
    shutil.copy(vae, base / "models" / "diffusion_models" / "autoencoder.safetensors")
    return base


def complaint(server: Any, api: Api) -> tuple[str, str]:
    """The kind of the node that complains, and its words: before or while it runs."""
    from host_server import Refused

    try:
        run = server.draw(api)
    except Refused as refused:
        ((node, told),) = json.loads(str(refused))["node_errors"].items()
        return api[node]["class_type"], told["errors"][0]["details"]
    assert run.ending == "execution_error"
    return run.of_type("execution_error")[0]["node_type"], run.error


def with_four_channels(api: Api) -> Api:
    """Sampling starts from a latent of another model."""
    load = {"class_type": "LoadLatent", "inputs": {"latent": "four.latent"}}
    return changed({**api, "90": load}, "KSampler", latent_image=["90", 0])


def with_branch(api: Api, refiner: str) -> Api:
    positive = api[node_of(api, "KSampler")]["inputs"]["positive"]
    inputs = {"conditioning": positive, "refiner": refiner, "strength": 1.0}
    inputs |= {"attention": "as trained", "gating": "as trained"}
    node = {"class_type": "LiDiTLinguisticTokenRefiner", "inputs": inputs}
    return changed({**api, "90": node}, "KSampler", positive=["90", 0])


MISTAKES = {
    "an LLM that is not there": (
        lambda api: changed(api, "LiDiTLLMLoader", llm="no-such-llm"),
        ("LiDiTLLMLoader", "no-such-llm"),
    ),
    "a path that leads out of the LLM folders": (
        lambda api: changed(api, "LiDiTLLMLoader", llm="../../secret"),
        ("LiDiTLLMLoader", r"\.\."),
    ),
    "a block that the LLM has not": (
        lambda api: changed(api, "LiDiTLLMLoader", layer="99"),
        ("LiDiTLLMLoader", "99"),
    ),
    "a checkpoint that is not there": (
        lambda api: changed(api, "LiDiTModelLoader", model_name="no-such.safetensors"),
        ("LiDiTModelLoader", "no-such.safetensors"),
    ),
    "a path that leads out of the model folders": (
        lambda api: changed(api, "LiDiTModelLoader", model_name="../../secret.safetensors"),
        ("LiDiTModelLoader", r"\.\."),
    ),
    "a checkpoint of another kind": (
        lambda api: changed(api, "LiDiTModelLoader", model_name="autoencoder.safetensors"),
        ("LiDiTModelLoader", "no LI-DiT"),
    ),
    "a latent of another model": (with_four_channels, ("KSampler", "4 channels")),
    "an LLM for another branch": (lambda api: with_branch(api, "2"), ("KSampler", "576 wide")),
    "a branch that is not there": (lambda api: with_branch(api, "4"), ("KSampler", "branch 4")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_sentence_on_its_node(server, files, api, mistake):
    make, (node, words) = MISTAKES[mistake]
    where, told = complaint(server, make(api))
    assert where == node and re.search(words, told), (where, told)
    assert "Traceback" not in told and "\n" not in told.strip(), told


def test_the_host_goes_on_after_a_mistake(server, files, api):
    complaint(server, with_four_channels(api))
    assert is_picture(only_picture(server.draw(changed(api, "KSampler", seed=99))))


@pytest.fixture(scope="module")
def without_vae(base: Path) -> str:
    """A copy of the shipped checkpoint in a folder of its own, where no autoencoder lies."""
    source = SHIPPED if SHIPPED.exists() else base / "models" / "diffusion_models" / SHIPPED.name
    config, weights = read_lidit(source)
    config = replace(config, latent=replace(config.latent, name="no-such-vae"))
    save_lidit(weights, config, base / "models" / "diffusion_models" / "no-vae.safetensors")
    return "no-vae.safetensors"


def test_a_missing_vae_is_told_when_it_is_used_and_the_queue_goes_on(server, api, without_vae):
    model = changed(api, "LiDiTModelLoader", model_name=without_vae)
    drawn = {i: n for i, n in model.items() if n["class_type"] not in ("VAEDecode", "SaveImage")}
    save = {"samples": [node_of(api, "KSampler"), 0], "filename_prefix": "no-vae"}
    latent = {**drawn, "91": {"class_type": "SaveLatent", "inputs": save}}
    assert server.draw(latent).ending == "execution_success"
    for _ in range(2):
        where, told = complaint(server, model)
        assert where == "VAEDecode" and "load the no-such-vae VAE" in told, (where, told)
    assert server.draw(changed(latent, "KSampler", seed=98)).ending == "execution_success"
    assert is_picture(only_picture(server.draw(changed(api, "KSampler", seed=97))))


def test_a_hundred_thousand_characters_are_cut_and_drawn(server, api):
    long = "a cat to the left of a dog " * 3704
    assert len(long) > 100_000
    before = len(server.log)
    run = server.draw(changed(with_stock_encode(api), "CLIPTextEncode", text=long))
    assert is_picture(only_picture(run))
    told = re.search(r"only the first 96 of the prompt's (\d+) tokens", server.log[before:])
    assert told and int(told[1]) > 20_000


def held(server: Any) -> int:
    """Bytes that the host holds once everything was dropped, as soon as they stay the same."""
    process, sizes = psutil.Process(server.process.pid), []
    for _ in range(20):  # the host may hear of it only when its next collection is due
        forget_all(server)
        sizes.append(process.memory_info().rss)
        if len(sizes) > 8 and max(sizes[-3:]) < 1.002 * min(sizes):
            break
    return min(sizes)


@pytest.mark.long
def test_memory_comes_back_when_everything_is_dropped(server, api):
    """Compared with the second time: the first also loads code that stays."""
    sizes = []
    for seed in range(4):
        server.draw(changed(api, "KSampler", seed=seed, steps=2))
        loaded = psutil.Process(server.process.pid).memory_info().rss
        sizes.append(held(server))
        assert sizes[-1] < loaded - LLM_BYTES
    print([size >> 20 for size in sizes])
    assert sizes[-1] < LEAK * sizes[1], sizes
