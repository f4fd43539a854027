"""LoRA files of other trainers: the stock node and our merge. Run by the host's Python."""

from __future__ import annotations

import pytest
from model_kit import close
from tiny_lidit import STYLES, styled

from lidit_core.checkpoints.lidit import read_lidit, save_lidit
from lidit_core.checkpoints.lora import load_with_loras
from lidit_core.io.tensors import write_safetensors


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("style", STYLES)
def test_the_stock_node_gives_the_merged_model(kit, model, tmp_path, style, strength, caplog):
    name = f"style-{style}.safetensors"
    path = kit.host.base / "models" / "loras" / name
    write_safetensors(path, styled(style, read_lidit(kit.checkpoint)[1]), {})
    merged = load_with_loras(kit.checkpoint, [(path, strength)])
    save_lidit(merged, merged.config, tmp_path / "merged.safetensors")
    loaded = kit.stock("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)
    drawn = kit.sample(loaded, kit.prompt())
    ours = kit.sample(kit.model.load_model(tmp_path / "merged.safetensors"), kit.prompt())
    assert close(drawn, ours)
    assert not close(drawn, kit.sample(model, kit.prompt()), 1e-2)
    assert "not loaded" not in caplog.text.lower()
