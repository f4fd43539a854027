"""The names under which CONDITIONING entries carry what LI-DiT and LLMDiff read."""

from __future__ import annotations

from ..lidit_core.llm.blocks import Block, shown_block
from ..lidit_core.text.templates import InstructionTemplate

HIDDEN, ROLES, NAMES = "lidit_hidden", "lidit_roles", "lidit_llm"
BRANCHES, OPTIONS, FUSION = "lidit_branch", "lidit_options", "lidit_fusion"
READINGS, USED, FINGERPRINTS = "lidit_reading", "lidit_used", "lidit_fingerprint"
EMPHASIS = "lidit_emphasis"  # weights of tokens, of the LLMs whose prompt has some
TEXT = "lidit_text"  # of what a LI-DiT puts among the host's conditions
MODEL_CONDS = "model_conds"  # the host's key: conditions that a model adds its own to
LLMDIFF = "llmdiff_states"  # of what llmdiff_conditioning.py writes
Entry = list  # [Tensor, dict]


def reading_of(block: Block, template: InstructionTemplate) -> str:
    """How an LLM is read, as one string: refiners are trained on one way of reading it."""
    return f"{shown_block(block)} {template.to_json()}"
