"""How many tokens a caption will have, guessed from its letters before any is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lidit_core.text.spec import LLMSpec


@dataclass(frozen=True)
class TextTokens:
    """A text's tokens in one branch."""

    read: int  # by the refiners: instruction, prompt and tail
    kept: int  # for the image tokens


PROMPT_TOKENS = 16  # assumed: a caption's, with its batch's padding
LETTERS = 4  # assumed: of a template's text to a token
CHAT_BEFORE, CHAT_AFTER = 6, 3  # assumed: tokens of a chat template around the user's turn


def text_tokens(llms: Sequence[LLMSpec], prompt: int = PROMPT_TOKENS) -> dict[int, TextTokens]:
    """Guess a text's tokens by branch from the template's letters; only the tokenizer knows."""
    return {i: _tokens(llm, min(prompt, llm.token_budget)) for i, llm in enumerate(llms)}


def _tokens(llm: LLMSpec, prompt: int) -> TextTokens:
    template = llm.template
    before, after = template.user_turn()
    instruction = -(-len(template.system + before) // LETTERS) + CHAT_BEFORE * template.chat
    tail = -(-len(after) // LETTERS) + CHAT_AFTER * template.chat
    return TextTokens(instruction + prompt + tail, prompt + tail * template.keep_tail)
