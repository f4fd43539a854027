"""Maps of a picture's cross-attention to each word of its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..model.config import LiDiTConfig
from ..model.text_side import TextOptions
from ..text.states import LLMStates

WordTokens = Sequence[tuple[str, tuple[int, ...]]]  # each word, and its tokens' numbers


@dataclass(frozen=True, eq=False)
class WordMap:
    """How much the picture looks at one word as one LLM reads it."""

    llm: str
    word: str
    map: Tensor  # (rows, columns) float32 in 0 to 1: share of a place's attention, mean over all


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture, and where it looks."""

    picture: Tensor  # (H, W, 3) uint8
    words: tuple[WordMap, ...]  # of the first LLM, then of the second


def first_keys(
    config: LiDiTConfig, text: Mapping[int, LLMStates], options: TextOptions
) -> dict[int, int]:
    """What is added to a token's number to find it among the transformer's keys, by branch."""
    refiner = config.refiner
    kept = refiner.registers if refiner.registers_kept else 0
    places, start = {}, 0
    for i in sorted(text):
        states = text[i] if options.of(i).weight else text[i].emptied()
        first = states.rows.first
        places[i] = start + kept - first
        start += kept + states.roles.shape[1] - first
    return places


def word_maps(
    attention: Tensor, grid: tuple[int, int], llm: str, words: WordTokens, first_key: int
) -> Iterator[WordMap]:
    """The maps of a prompt's words as one LLM reads it.

    Args:
        attention: (rows · columns, keys), how much each place of the picture looks at each key.
        grid: rows and columns.
        words: with the numbers of their tokens, see `TokenPlaces.words`.
        first_key: see `first_keys`.
    """
    for word, tokens in words:
        share = attention[:, [first_key + n for n in tokens]].sum(dim=1)
        yield WordMap(llm, word, share.reshape(grid))
