"""How much memory an LLM takes beside its weights while it reads a prompt."""

from __future__ import annotations

from ...lidit_core.llm.loading import LLM

ROOM_FOR_TEMPLATE = 256  # tokens of a template beside the prompt's


def memory_needed(llm: LLM, token_budget: int, text: str) -> int:
    """Estimate the bytes of activations for one prompt, from above: no token is under a byte."""
    config = llm.module.config
    tokens = min(token_budget, len(text.encode("utf-8", "replace")))
    length = min(tokens + ROOM_FOR_TEMPLATE, llm.context)
    wide = 16 * llm.width + 4 * getattr(config, "intermediate_size", 4 * llm.width)
    square = length * getattr(config, "num_attention_heads", 1)
    return length * (wide + square + llm.state_width) * 4
