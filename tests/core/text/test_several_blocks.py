"""Several blocks of an LLM, read at once. Run: pytest tests/core/text/test_several_blocks.py"""

from __future__ import annotations

import json

import pytest
import torch
from tiny_llm import (
    FAMILIES,
    chat_tokenizer,
    plain_tokenizer,
    reference_states,
    relative_error,
    save_llm,
)

from lidit_core.errors import LiDiTError
from lidit_core.llm.blocks import default_taps, kept_blocks, plain_block, shown_block
from lidit_core.llm.loading import load_llm
from lidit_core.text.cache import MEMORY
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.prompt_encoder import PromptEncoder

TAPS = (-3, 1, -5)  # of 6 blocks: the fourth, the first and the second
PROMPTS = ["a red cat left of two dogs on a blue background", "", "两只猫和🍎"]
LIMIT = 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_transformers_own_side_by_side(family, tmp_path):
    """Alone, in a padded batch, instruction reused and not; no more blocks than needed."""
    tokenizer = plain_tokenizer() if family.startswith("Gemma") else chat_tokenizer()
    folder = save_llm(tmp_path / family, family, tokenizer)
    llm = load_llm(folder, TAPS, torch.float32)
    assert llm.blocks == 4 and llm.taps == (4, 1, 2) and llm.state_width == 3 * llm.width
    encoders = [LLMEncoder(llm, "short", reuse=reuse) for reuse in (True, False)]
    batches = [encoder.encode(PROMPTS) for encoder in encoders]
    for row, prompt in enumerate(PROMPTS):
        ids = encoders[0].renderer(prompt).ids
        reference = reference_states(folder, ids)
        theirs = torch.cat([reference[tap] for tap in (4, 1, 2)], dim=-1)
        for states in [b[row : row + 1] for b in batches] + [encoders[0].encode([prompt])]:
            for ours, their in zip(states.hidden[0, : len(ids)].chunk(3, -1), theirs.chunk(3, -1)):
                assert relative_error(ours, their) <= LIMIT


def test_the_caches_hold_several_layers_and_keys_tell_them_apart(tmp_path):
    folder = save_llm(tmp_path / "tiny-llama")
    MEMORY.clear()
    encoder = PromptEncoder(folder, "short", TAPS, disk_cache=tmp_path / "states")
    (first,) = encoder.encode_rows(PROMPTS[:1])
    MEMORY.clear()
    again = PromptEncoder(folder, "short", TAPS, disk_cache=tmp_path / "states")
    (kept,) = again.encode_rows(PROMPTS[:1])
    assert kept.cached and not again.loaded and torch.equal(kept.hidden, first.hidden)
    keys = {PromptEncoder(folder, "short", b).identity() for b in (TAPS, TAPS[::-1], -3, (-3, 1))}
    assert len(keys) == 4


def test_one_tap_is_the_number_and_has_its_key(tmp_path):
    """States that were kept before there were taps are found again."""
    folder = save_llm(tmp_path / "tiny-llama")
    one = PromptEncoder(folder, "short", (-3,))
    assert one.block == -3 and json.loads(one.identity())[5] == -3
    assert one.identity() == PromptEncoder(folder, "short", -3).identity()


@pytest.mark.parametrize(
    "total, expected",
    [
        (30, (3, 6, 12, 15, 18, 21, 27, 28)),  # SmolLM2
        (18, (3, 6, 9, 12, 15, 16)),  # Gemma 3 270M
        (6, (3, 4)),
        (2, (1,)),
    ],
)
def test_default_taps(total, expected):
    found = default_taps(total)
    assert len(found) <= 8 and found[-1] == max(total - 2, 1)
    assert found == expected


def test_bad_blocks_get_one_sentence(tmp_path):
    assert (
        shown_block(TAPS) == "-3,1,-5" and shown_block(-3) == "-3" and shown_block("all") == "all"
    )
    assert kept_blocks(TAPS, 6) == 4
    for taps, words in (((), "different whole"), ((1, 1), "different whole"), ((1.5, 2), "whole")):
        with pytest.raises(LiDiTError, match=words):
            plain_block(taps)
    folder = save_llm(tmp_path / "tiny-llama")
    with pytest.raises(LiDiTError, match="the same one twice"):
        load_llm(folder, (-3, 4))
    with pytest.raises(LiDiTError, match="block 9 is not in"):
        load_llm(folder, (-3, 9))
