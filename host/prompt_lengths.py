"""Tells of prompts longer than the weights have seen."""

from __future__ import annotations

from ..lidit_core.text.spec import LLMSpec
from .node_notes import note, nothing_to_note

PATCHED = "; a LoRA on this model may have been trained on longer ones"


def tell_length(spec: LLMSpec, used: int, kind: str = "", patched: bool = False) -> None:
    """Tell of a prompt that is longer than this LLM's branch was trained on.

    The host asks at every sampling, whether the prompt was encoded anew or not. Of several prompts
    of one kind the longest is told.

    Args:
        used: tokens of the prompt that are read, the template's not counted.
        kind: "positive" or "negative" where it is known.
        patched: whether LoRAs change the model.
    """
    told = spec.length_note(used)
    if told:
        sentence = f"{kind} prompt: {told}{PATCHED if patched else ''}".strip()
        note(sentence, (kind, spec.name), used)
    else:
        nothing_to_note()
