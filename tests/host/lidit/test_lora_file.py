"""A LoRA of our trainer in the stock node. Run by the host's Python: pytest this file"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_kit import close

from lidit_core.checkpoints.lidit import load_lidit, save_lidit
from lidit_core.checkpoints.lora import load_with_loras
from lidit_train.recipe import Lora
from lidit_train.tasks.lidit.lora import add_lora, save_lora

NAME = "ours.safetensors"


@pytest.fixture(scope="module")
def lora(kit) -> Path:
    """A LoRA of every linear layer, as if trained, among the host's LoRAs."""
    model = load_lidit(kit.checkpoint)
    torch.manual_seed(0)
    adapter = add_lora(model, Lora(4, 8.0, ("blocks", "text_side", "pooled_text", "final_layer")))
    with torch.no_grad():
        for pair in adapter.values():
            pair.B.normal_(std=0.05)
    path = kit.host.base / "models" / "loras" / NAME
    save_lora(adapter, model.config, path, base="small")
    return path


@pytest.fixture
def merged(kit, lora, tmp_path):
    """By strength, the model with the LoRA merged by our command line, as a MODEL."""

    def load(strength: float):
        model = load_with_loras(kit.checkpoint, [(lora, strength)])
        save_lidit(model, model.config, tmp_path / "merged.safetensors")
        return kit.model.load_model(tmp_path / "merged.safetensors")

    return load


@pytest.mark.parametrize("strength", [1.0, -0.6])
def test_the_stock_node_gives_the_merged_model(kit, model, merged, lora, strength, caplog):
    loaded = kit.stock("LoraLoaderModelOnly", model=model, lora_name=NAME, strength_model=strength)
    drawn = kit.sample(loaded, kit.prompt())
    assert close(drawn, kit.sample(merged(strength), kit.prompt()))
    assert not close(drawn, kit.sample(model, kit.prompt()), 1e-2)
    assert "not loaded" not in caplog.text.lower()
