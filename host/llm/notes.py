"""What a user is told of how a prompt was read: as a node's text, and in the log."""

from __future__ import annotations

import torch

from ...lidit_core.llm.blocks import Block, shown_block
from ...lidit_core.llm.loading import LLM
from ...lidit_core.text.cache import PromptStates
from ...lidit_core.text.emphasis import emphasis_notes
from ...lidit_core.text.notes import literal_notes, prompt_notes
from ..node_notes import note, nothing_to_note, report
from .memory import memory_needed


def describe_llm(llm: LLM, token_budget: int, device: torch.device) -> str:
    """What a user wants to know of an LLM that was loaded: its memory.

    Args:
        token_budget: tokens of a prompt at most.
        device: where prompts are encoded.
    """
    size = sum(weights.nbytes for weights in llm.module.parameters())
    dtype = str(next(llm.module.parameters()).dtype).removeprefix("torch.")
    more = memory_needed(llm, token_budget, "x" * token_budget)
    return (
        f"{llm.blocks} blocks, {dtype}: {size / 1e6:,.0f} MB in RAM\n"
        f"{token_budget} tokens: at most {more / 1e6:,.0f} MB more on {device}"
    )


def report_prompt(
    prompt: str,
    states: PromptStates,
    llm: str,
    block: Block,
    template: str,
    device: torch.device,
    emphasis: bool = False,
) -> str:
    """Show on the running node how a prompt was read.

    Args:
        llm: the LLM's name.
        block: the block whose states were read; see `load_llm`.
        template: the name of the instruction template that was used.
        device: where the states were computed if they were not cached.
        emphasis: whether the prompt was read for weights.
    Returns:
        The same, and a line for all that was cut or is read otherwise than elsewhere.
    """
    described = _described(states, llm, block, template, device)
    report(described)
    notes = prompt_notes(prompt, states, emphasis)
    return "\n".join([described, *(f"note: {told}" for told in notes)])


def _described(
    states: PromptStates,
    llm: str,
    block: Block,
    template: str,
    device: torch.device,
) -> str:
    """What a user wants to know of a prompt that was read, a line each."""
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
    return "\n".join(lines)


def tell_prompt(text: str, row: PromptStates, emphasis: bool = False) -> None:
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
    nothing_to_note()
