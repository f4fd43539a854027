"""The names under which CONDITIONING entries carry what LI-DiT and LLMDiff read.

Files of encoded prompts have LI-DiT's too, so that those are the library's.
"""

from __future__ import annotations

from ..lidit_core.model.prompt_text import (
    BRANCHES,
    EMPHASIS,
    FINGERPRINTS,
    FUSION,
    HIDDEN,
    NAMES,
    OPTIONS,
    READINGS,
    ROLES,
    USED,
    reading_of,
)

__all__ = ["BRANCHES", "EMPHASIS", "FINGERPRINTS", "FUSION", "HIDDEN", "NAMES", "OPTIONS",
           "READINGS", "ROLES", "USED", "reading_of"]  # fmt: skip
TEXT = "lidit_text"  # of what a LI-DiT puts among the host's conditions
MODEL_CONDS = "model_conds"  # the host's key: conditions that a model adds its own to
LLMDIFF = "llmdiff_states"  # of what llmdiff_conditioning.py writes
HostEntry = list  # [Tensor, dict], of the host's CONDITIONING
