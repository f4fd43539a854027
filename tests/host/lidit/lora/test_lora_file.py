"""A LoRA of our trainer in the stock node. Run by the host's Python: pytest this file"""

from __future__ import annotations

from pathlib import Path

import pytest
from model_kit import close, save_noisy_lora

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.checkpoints.lora import load_with_loras
from lidit_train.recipe import LORA_KINDS

NAME = "ours.safetensors"
FILES = [  # of each kind, under all names that its recipe may ask for
    (kind, names)
    for kind in LORA_KINDS
    for names in ("", "kohya", "peft")
    if names != "peft" or kind in ("lora", "dora")
]


@pytest.fixture(scope="module", params=FILES, ids="-".join)
def lora(kit, request) -> Path:
    """Lies among the host's LoRAs."""
    kind, names = request.param
    path = kit.host.base / "models" / "loras" / NAME
    return save_noisy_lora(kit.checkpoint, path, std=0.05, kind=kind, names=names)


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
