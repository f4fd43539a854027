"""A LoRA of our trainer in the stock node. Run by the host's Python: pytest this file"""

from __future__ import annotations

from pathlib import Path

import pytest
from model_kit import close, save_noisy_lora

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.checkpoints.lora import load_with_loras

NAME = "ours.safetensors"


@pytest.fixture(scope="module")
def lora(kit) -> Path:
    """Lies among the host's LoRAs."""
    return save_noisy_lora(kit.checkpoint, kit.host.base / "models" / "loras" / NAME, std=0.05)


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
