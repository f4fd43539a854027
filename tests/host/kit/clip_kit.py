"""Tiny LLMs as CLIPs of the loader node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Host, Pack
from tiny_llm import save_llm

from lidit_core.llm.locate import available

FAMILIES = ["Llama", "Qwen2", "Gemma3Text", "Phi3"]  # plain, biases, scaled embedding, fused
SMOLLM2 = "SmolLM2-135M-Instruct"
PROMPTS = [
    "a red cat left of two dogs",
    "",
    "两只猫和🍎",
    "(word:1.3) embedding:x BREAK <|im_end|>",
]
PROMPT = PROMPTS[0]
DEFAULTS = {
    "template": "short",
    "layer": "-3",
    "token_budget": 96,
    "dtype": "float32",
    "device": "default",
}


def save_llms(host: Host) -> dict[str, Path]:
    """One LLM a family in the host's models/llm; left alone where they are there already."""
    folders = {family: host.base / "models" / "llm" / "tiny" / family for family in FAMILIES}
    for family, folder in folders.items():
        if not folder.is_dir():
            save_llm(folder, family)
    return folders


def fresh_loader(pack: Pack) -> Callable:
    """`load(family, dtype=…)`: a CLIP from the node; nothing is loaded or cached before."""
    from comfy import model_management

    model_management.unload_all_models()
    pack.module("lidit_core.text.cache").MEMORY.clear()

    def load(family: str = "Llama", **options):
        name = family if family == SMOLLM2 else f"tiny/{family}"
        return pack.run("LiDiTLLMLoader", llm=name, **{**DEFAULTS, **options})[0]

    return load


def find_smollm2() -> str:
    if not available(SMOLLM2):
        pytest.skip(f"{SMOLLM2} is not on this machine; get it with `lidit fetch smollm2`")
    return SMOLLM2


def states(clip, prompt: str = PROMPT) -> torch.Tensor:
    """The states (1, L, C) of a prompt, as any node of the host gets them."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(prompt))


def states_now(clip, prompt: str = PROMPT) -> torch.Tensor:
    """The same past the cache and the memory manager, with the weights as they lie."""
    with torch.inference_mode():
        return clip.cond_stage_model.encode_token_weights(clip.tokenize(prompt))[0]
