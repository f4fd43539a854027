"""Files trained on an LLM's states carry its terms. Run: pytest tests/core/io/test_terms.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from tiny_adapter import trained_adapter
from tiny_bridge import config, maker, spec
from tiny_lidit import lidit_config, save_lidit_files

from lidit_core.bridge.file import LoadedBridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.checkpoints.lora import write_lora
from lidit_core.checkpoints.refiner import save_refiner
from lidit_core.cli import main
from lidit_core.io.tensors import write_metadata
from lidit_core.io.terms import TERMS_KEY
from lidit_core.llmdiff.file import write_adapter

GEMMA, OTHER = "google_Gemma-3-4b-it", "another"


def checkpoint(path, llm):
    save_lidit_files(path.parent, lidit_config("first", llm)).replace(path)


def refiner(path, llm):
    whole = path.with_name("whole.safetensors")
    checkpoint(whole, llm)
    save_refiner(whole, llm, path)


def lora(path, llm):
    layers = {"blocks.0.mlp.0": {"A": torch.ones(1, 4), "B": torch.ones(4, 1)}}
    write_lora(path, layers, 1.0, lidit_config(llm))


def adapter(path, llm):
    made = trained_adapter()
    named = replace(made.config, llm=replace(made.config.llm, name=llm))
    write_adapter(path, made.state_dict(), named)


def bridge(path, llm):
    written(path, config(spec(), spec(llm)))


def bridge_to(path, llm):
    """One that learnt to write an LLM's states."""
    made = config()
    written(path, replace(made, teacher=replace(made.teacher, name=llm)))


def written(path, configuration):
    made = Bridge(configuration)
    weights = {k: torch.zeros_like(v) for k, v in made.state_dict().items()}
    empty = torch.zeros(1, 8, 20), {"pooled_output": torch.zeros(1, 6)}
    write_bridge(path, LoadedBridge(made, maker(), empty), weights)


def terms_in(path) -> str | None:
    with safe_open(path, "pt") as file:
        return file.metadata().get(TERMS_KEY)


@pytest.mark.parametrize("write", [checkpoint, refiner, lora, adapter, bridge, bridge_to])
def test_what_was_trained_on_gemmas_states_carries_its_terms(tmp_path, write):
    for llm in (GEMMA, OTHER):
        write(tmp_path / f"{llm}.safetensors", llm)
    assert "https://ai.google.dev/gemma/terms" in terms_in(tmp_path / f"{GEMMA}.safetensors")
    assert terms_in(tmp_path / f"{OTHER}.safetensors") is None


def test_older_files_get_them_when_stamped(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint(path, GEMMA)
    with safe_open(path, "pt") as file:
        older = {k: v for k, v in file.metadata().items() if k != TERMS_KEY}
    write_metadata(path, older)
    assert main(["stamp", str(path)]) == 0
    assert "gemma/terms" in terms_in(path)
