"""A host whose log is to show errors alone: the nodes tell the same. Run: see conftest.py"""

from __future__ import annotations

import logging

import pytest
import torch
from conftest import HOST, PACK_NAME, SHIPPED, make_base
from model_kit import save_noisy_lora
from safetensors.torch import load_file, save_file
from workflow_kit import changed, graph, need_llms, node_of

FOREIGN = "lora_unet_down_blocks_1_attentions_0_proj_in"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A host that was started with `--verbose ERROR`, and a LoRA that fits in part."""
    pytest.importorskip("websocket", reason="needs websocket-client: pip install websocket-client")
    from host_server import HostServer

    base = make_base(tmp_path_factory.mktemp("quiet"))
    file = save_noisy_lora(SHIPPED, base / "models" / "loras" / "partly.safetensors", 0.01)
    pair = {f"{FOREIGN}.lora_{part}.weight": torch.ones(4, 4) for part in ("up", "down")}
    save_file(load_file(file) | pair, file)
    with HostServer(HOST, base, PACK_NAME, "--verbose", "ERROR") as running:
        yield running


def test_a_lora_of_which_some_tensors_fit_is_told_on_the_node(quiet):
    api = changed(graph("text_to_image"), "KSampler", steps=2, model=["lora", 0])
    need_llms(api)
    given = {"model": [node_of(api, "LiDiTModelLoader"), 0], "lora_name": "partly.safetensors"}
    api["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": {**given, "strength_model": 1.0}}
    quiet.draw(api)  # 0.33.0 ends the first sampling of a log that is empty with an IndexError
    run = quiet.draw(changed(api, "KSampler", seed=7))
    assert run.ending == "execution_success", run.error
    told = run.texts[node_of(api, "KSampler")][-1]
    assert "2 tensors more, such as 'lora_unet_down_blocks_1_" in told
    assert "not loaded" not in quiet.log and "tensors more" not in quiet.log


@pytest.fixture
def log():
    """The root's log with one output, both as they were afterwards."""
    root = logging.getLogger()
    level, levels = root.level, {output: output.level for output in root.handlers}
    yield root
    root.setLevel(level)
    for output, before in levels.items():
        output.setLevel(before)


def test_what_the_library_warns_of_is_told_on_the_node(pack, host, log, caplog, tmp_path):
    """Of a GGUF that is damaged, whose older copy is used; the log shows what it did before."""
    from comfy_execution.utils import CurrentNodeContext

    pytest.importorskip("server", reason="this host's server starts only as the main program")
    notes = pack.module("host.node_notes")
    recheck = pack.module("lidit_core.llm.gguf.convert").recheck
    log.setLevel(logging.ERROR)
    notes.hear_warnings()
    logging.warning("what the host warns of")
    with CurrentNodeContext("a prompt", "a loader"):
        recheck([tmp_path / "damaged.gguf"], tmp_path)
        (told,) = notes.ui_notes()["text"]
    assert "is not checked" in told and not caplog.text
    logging.error("what fails in the host")
    assert "what fails" in caplog.text
