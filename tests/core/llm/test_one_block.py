"""LLMs whose blocks are read as they run. Run: pytest tests/core/llm/test_one_block.py"""

from __future__ import annotations

import psutil
import pytest
import torch
from tiny_llm import save_llm

from lidit_core.llm.loading import load_llm
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.prompt_encoder import PromptEncoder

PROMPTS = ["a red cat", "two dogs on a blue background and a banana"]


@pytest.fixture(scope="module", params=["Llama", "Gemma3Text", "Qwen3"])
def folder(request, tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "llm", request.param, shard="40KB")


def encoded(folder, block, **options):
    llm = load_llm(folder, block, torch.float32, **options)
    rows = LLMEncoder(llm).encode_rows(PROMPTS)
    return llm, [row.hidden for row in rows]


@pytest.mark.parametrize("block", [-3, (2, 4), "all", "differences"])
def test_states_are_those_of_the_whole(folder, block):
    whole, expected = encoded(folder, block)
    parts, found = encoded(folder, block, one_block=True)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert parts.fingerprint == whole.fingerprint != ""
    assert (parts.dtype, parts.device) == (whole.dtype, whole.device)


def test_one_block_at_most_has_its_weights(folder):
    llm, _ = encoded(folder, -3, one_block=True)
    blocks = [[w for w in block.parameters() if w.ndim == 2] for block in llm.module.layers]
    filled = [any(not weight.is_meta for weight in weights) for weights in blocks]
    assert filled == [False] * (len(filled) - 1) + [True]
    assert llm.module.get_input_embeddings().weight.is_meta


def test_it_is_chosen_where_memory_has_no_room_and_said(folder, monkeypatch, caplog):
    room = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: room._replace(available=10_000))
    reader = PromptEncoder(folder, dtype=torch.float32)
    few = reader.encode_rows(PROMPTS)
    assert "so its blocks are read from its files one at a time" in caplog.text
    assert reader.encoder().llm.module.get_input_embeddings().weight.is_meta
    _, expected = encoded(folder, -3)
    for a, b in zip(few, expected, strict=True):
        assert (a.hidden - b).abs().max() <= 1e-5 * b.abs().max()
