"""What a user is told of how a prompt was read: as a node's text, and in the log."""

from __future__ import annotations

import torch

from ...lidit_core.llm.blocks import Block, shown_block
from ...lidit_core.text.cache import PromptStates
from ...lidit_core.text.emphasis import emphasis_notes
from ...lidit_core.text.notes import literal_notes, prompt_notes
from ..node_notes import note


def describe(
    prompt: str,
    states: PromptStates,
    llm: str,
    block: Block,
    template: str,
    device: torch.device,
    emphasis: bool = False,
) -> str:
    """What a user wants to know of a prompt that was read, a line each.

    Args:
        llm: the LLM's name.
        block: the block whose states were read; see `load_llm`.
        template: the name of the instruction template that was used.
        device: where the states were computed if they were not cached.
        emphasis: whether the prompt was read for weights.
    """
    first, end = states.span
    place = f"{first} to {end - 1}" if end > first else "empty"
    (length, width), dtype = states.hidden.shape, str(states.hidden.dtype).removeprefix("torch.")
    lines = [
        f"{llm}, after block {shown_block(block)}, template {template}",
        f"{states.used} of {states.budget} tokens used; {length} with the template, "
        f"the prompt is {place}",
        f"states {width} wide, {dtype}, "
        + ("cached" if states.cached else f"computed on {device}"),
    ]
    if states.emphasis is not None:
        weights = sorted(set(states.emphasis[first:end].tolist()))
        lines.append("weights of its tokens: " + ", ".join(f"{weight:g}" for weight in weights))
    notes = prompt_notes(prompt, states, emphasis)
    return "\n".join([*lines, *(f"note: {told}" for told in notes)])


def tell(text: str, row: PromptStates, emphasis: bool = False) -> None:
    """Note on the encoding node that a prompt was cut, or what of it has no effect.

    Args:
        emphasis: whether the prompt was read for weights.
    """
    if row.used < row.total:
        note(
            f"only the first {row.used} of the prompt's {row.total} tokens are read; shorten it, "
            "or raise the LLM loader's token budget where the model was trained with more"
        )
    for literal in literal_notes(text, emphasis):
        note(f"in the prompt, {literal}")
    for idle in emphasis_notes(text, row) if emphasis else ():
        note(idle)
