"""Captions and prompts in tokens of the demo LLMs. Run: pytest tests/stickers/test_lengths.py"""

from __future__ import annotations

from random import Random

import pytest

from lidit_core.errors import LiDiTError
from lidit_core.model.presets import PRESETS
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_stickers.paraphrases import long_prompts
from lidit_stickers.scenes.grammar import captions
from lidit_stickers.scenes.wordings.filler import length
from lidit_stickers.scenes.wordings.wide import LONGEST, word

SPECS = PRESETS["stickers"].llms


def tokens(spec, texts: list[str]) -> list[int]:
    """Of each prompt, before anything is cut at the budget."""
    source = PromptEncoder(spec.name, spec.template, spec.block, spec.token_budget)
    try:
        renderer = source.encoder().renderer
    except LiDiTError as error:
        pytest.skip(str(error))
    return [renderer(text).total for text in texts]


@pytest.mark.llm
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_english_captions_fit_into_the_budget_and_fill_it(spec) -> None:
    """So that no fact is cut away, and no length within the budget is new to the model."""
    counts = tokens(spec, [caption.text for caption in captions(3000, 5)])
    assert max(counts) <= spec.token_budget
    for low in range(0, 90, 10):
        assert sum(low <= count < low + 10 for count in counts) > 10


@pytest.mark.llm
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_long_prompts_have_30_to_90_tokens(spec) -> None:
    counts = tokens(spec, [caption.text for caption in long_prompts()])
    assert 30 <= min(counts) and max(counts) <= 90


def test_no_caption_is_longer_than_the_longest() -> None:
    """And a target that cannot be met is a sentence."""
    longest = captions(3000, 6)
    assert max(length(caption.text) for caption in longest) <= LONGEST
    with pytest.raises(LiDiTError, match="expected at most 84"):
        word(longest[0].request, Random(0), target=200)
