"""Inputs and their choices that several nodes have."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..lidit_core.text.templates import PRESETS

InstructionTemplateType = io.Custom("LIDIT_TEMPLATE")
BridgeType = io.Custom("LIDIT_BRIDGE")
MOST_LLMS = 4  # that a bridge reads
BRANCHES = ["by LLM name", "1", "2", "3", "4"]


def branch_chosen(choice: str) -> int | None:
    """The number, from 0, of a branch of ``BRANCHES``; None = by LLM name."""
    return None if choice == BRANCHES[0] else int(choice) - 1


def prompt_input(emphasis: bool = False) -> io.String.Input:
    """The box for a prompt that an LLM reads.

    Args:
        emphasis: whether the node has a switch for weights of words.
    """
    literal = "Weights such as (word:1.3), embeddings and BREAK are read as plain text"
    if emphasis:
        literal = (
            "Embeddings and BREAK are read as plain text, and so are weights such as (word:1.3) "
            "unless emphasis is on"
        )
    return io.String.Input(
        "text",
        default="",
        multiline=True,
        dynamic_prompts=True,
        tooltip=f"The prompt, in the LLM's languages. {literal}",
    )


def emphasis_input() -> io.Boolean.Input:
    """The switch for weights of words, of a node whose prompt has one."""
    return io.Boolean.Input(
        "emphasis",
        default=False,
        optional=True,
        tooltip="On: weights as in (word:1.3) or ((word)) are read as CLIP Text Encode reads them "
        "for other models. Off: they are plain text",
    )


def other_llms() -> list[io.Clip.Input]:
    """The LLMs beside the first that a bridge may read."""
    return [
        io.Clip.Input(
            f"clip_{n}", optional=True, tooltip=f"LLM {n}, for a bridge that reads several"
        )
        for n in range(2, MOST_LLMS + 1)
    ]


def taken_llms(clip: Any, given: dict[str, Any]) -> list[Any]:
    """All that are connected, the first first; the others are taken out of what is given."""
    others = (given.pop(put.id, None) for put in other_llms())
    return [clip, *(other for other in others if other is not None)]


def template_input() -> io.Combo.Input:
    """The instruction before a prompt, a preset."""
    return io.Combo.Input(
        "template",
        options=list(PRESETS),
        default="short",
        tooltip="The instruction before the prompt. The stickers were trained with 'short'; "
        "'paper' is the paper's own",
    )


def layer_input() -> io.String.Input:
    """The block of an LLM whose output is read; see `host.llm.clip.block_named`."""
    return io.String.Input(
        "layer",
        default="-3",
        tooltip="Whose output is read: a block counted from the end (-3 is the paper's) or from 1, "
        "several such as -3,-9,-15 for weights that were trained on them, or 'all'",
    )


def budget_input() -> io.Int.Input:
    """How many tokens of a prompt are read at most."""
    return io.Int.Input(
        "token_budget",
        default=96,
        min=1,
        max=32768,
        tooltip="Tokens of the prompt that are read at most, the template's not counted; the "
        "stickers were trained with 96",
    )
