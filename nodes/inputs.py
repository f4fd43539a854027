"""Inputs and their choices that several nodes have."""

from __future__ import annotations

from comfy_api.latest import io

InstructionTemplateType = io.Custom("LIDIT_TEMPLATE")
BRANCHES = ["by LLM name", "1", "2", "3", "4"]


def branch_chosen(choice: str) -> int | None:
    """The number, from 0, of a branch of ``BRANCHES``; None = by LLM name."""
    return None if choice == BRANCHES[0] else int(choice) - 1


def prompt_input() -> io.String.Input:
    """The box for a prompt that an LLM reads."""
    return io.String.Input(
        "text",
        default="",
        multiline=True,
        dynamic_prompts=True,
        tooltip="The prompt, in the LLM's languages. Embeddings and BREAK are read as plain text, "
        "and so are weights such as (word:1.3) unless emphasis is on",
    )
