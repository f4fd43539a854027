"""A file of Qwen3-0.6B's real shape through CLIPLoader itself. A long proof: see docs/proofs.md

Run: LIDIT_REAL_SIZES=1, and see conftest.py
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import weakref
from pathlib import Path

import pytest
import torch
from host_clip_kit import Bench, states_of
from safetensors.torch import save_file

BLOCKS, WIDTH, INNER, VOCABULARY, HEAD = 28, 1024, 3072, 151936, 128
pytestmark = pytest.mark.skipif(
    not os.environ.get("LIDIT_REAL_SIZES"), reason="takes 1.2 GB of disk and twice of memory"
)


def linear(out: int, into: int) -> torch.Tensor:
    return torch.randn(out, into, dtype=torch.bfloat16).mul_(into**-0.5)


def random_weights() -> dict[str, torch.Tensor]:
    """Qwen3-0.6B's tensors, drawn at random."""
    weights = {"model.embed_tokens.weight": linear(VOCABULARY, WIDTH)}
    shapes = {
        "self_attn.q_proj": (16 * HEAD, WIDTH),
        "self_attn.k_proj": (8 * HEAD, WIDTH),
        "self_attn.v_proj": (8 * HEAD, WIDTH),
        "self_attn.o_proj": (WIDTH, 16 * HEAD),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
    }
    norms = {"input_layernorm": WIDTH, "post_attention_layernorm": WIDTH}
    norms |= {"self_attn.q_norm": HEAD, "self_attn.k_norm": HEAD}
    for block in range(BLOCKS):
        for name, shape in shapes.items():
            weights[f"model.layers.{block}.{name}.weight"] = linear(*shape)
        for name, width in norms.items():
            key = f"model.layers.{block}.{name}.weight"
            weights[key] = torch.ones(width, dtype=torch.bfloat16)
    return weights | {"model.norm.weight": torch.ones(WIDTH, dtype=torch.bfloat16)}


def memory() -> int:
    """Bytes of this process that lie in memory, without what the C library keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


def test_a_real_file_through_clip_loader(host, pack):
    bench = Bench(host, pack)
    if not bench.has("qwen3"):
        pytest.skip("this host does not run Qwen 3")
    from comfy import model_management

    file = host.base / "models" / "text_encoders" / "qwen3_06b_random.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(random_weights(), file)
    size, before = file.stat().st_size, memory()
    with torch.inference_mode():
        (source,) = host.nodes.CLIPLoader().load_clip(file.name, type="stable_diffusion")
    clip = bench.read(source)
    assert clip.cond_stage_model.name == "Qwen3-0.6B"
    found = states_of(clip, "a red cat left of two dogs")
    assert found.shape[2] == WIDTH and clip.cond_stage_model.llm.blocks == BLOCKS - 2
    weights = {p.data_ptr(): p.nbytes for p in source.cond_stage_model.parameters()}
    held = memory() - before
    print(f"file {size / 1e6:.0f} MB, weights {sum(weights.values()) / 1e6:.0f} MB,", end=" ")
    print(f"held {held / 1e6:.0f} MB,", end=" ")
    assert abs(sum(weights.values()) / size - 1) < 0.01
    assert held < 1.25 * size  # the file, the tokenizers, and what one prompt takes
    model_management.unload_all_models()
    assert not model_management.current_loaded_models
    model = weakref.ref(source.cond_stage_model)
    del source, clip, weights
    freed = before + held - memory()
    print(f"freed {freed / 1e6:.0f} MB")
    assert model() is None and freed > 0.9 * size
