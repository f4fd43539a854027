"""Emphasis in a prompt: ``(word:1.3)``, ``((word))`` and escapes, as ComfyUI's parser reads them.

Square brackets are plain text there, and so they are here. The LLM reads the prompt without the
marks; what has a weight w adds log w to the logits of its tokens as keys of the transformer's
cross-attention, and counts w times in the pooled text (`TextSide`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ..errors import check
from .cache import PromptStates

PAIR = 1.1  # what a pair of parentheses without a number multiplies by
DEEPEST = 100  # pairs of parentheses around one another
LARGEST = 1e6  # weight; beyond it float32 would soon hold no sum of them
ADVICE = ", and what is to be avoided belongs in the negative prompt"
ESCAPED = (("\\)", "\0\1", ")"), ("\\(", "\0\2", "("))  # as written, while it is read, as meant


@dataclass(frozen=True)
class EmphasisedPrompt:
    """A prompt without its marks.

    Args:
        weights: of every character; () = 1 for all.
        pieces: characters of each part between marks, one after the other, which text encoders'
            hosts tokenise each by itself; () = it is one.
    """

    text: str
    weights: tuple[float, ...] = ()
    pieces: tuple[int, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether every weight is 1."""
        return all(weight == 1 for weight in self.weights)


def read_emphasis(prompt: str, below_0: bool = False) -> EmphasisedPrompt:
    """Read the marks of a prompt.

    Args:
        below_0: weights may be less than 0, as (row - empty) * weight + empty takes them; their
            logarithm, which an LLM's tokens have, is none.
    Raises:
        LiDiTError: a weight is too large, too small or no number, or parentheses lie too deep in
            one another.
    """
    text, weights, pieces = "", [], []
    least, advice = (-LARGEST, "") if below_0 else (0.0, ADVICE)
    for piece, weight in _pieces(prompt):
        check(
            least <= weight <= LARGEST,
            f"the prompt gives {piece[:40]!r} the weight {weight:g}; expected {least:g}"
            f"{advice and ' (not read)'} to {LARGEST:g}{advice}",
        )
        text += piece
        weights += [weight] * len(piece)
        pieces += [len(piece)] if piece else []
    return EmphasisedPrompt(text, tuple(weights), tuple(pieces))


class RowEncoder(Protocol):
    """What makes states of prompts, with the places of their tokens where they are asked for."""

    def encode_rows(self, prompts: Sequence[str], offsets: bool = False) -> list[PromptStates]: ...


def encode_emphasised(encoder: RowEncoder, prompt: str) -> PromptStates:
    """States of a prompt without its marks, with the weights of its tokens where they count."""
    read = read_emphasis(prompt)
    (row,) = encoder.encode_rows([read.text], offsets=not read.plain)
    return with_weights(row, read)


def read_prompt(encoder: RowEncoder, prompt: str, emphasis: bool) -> PromptStates:
    """States of a prompt as it is, or with `emphasis` read for weights."""
    return encode_emphasised(encoder, prompt) if emphasis else encoder.encode_rows([prompt])[0]


def with_weights(row: PromptStates, read: EmphasisedPrompt) -> PromptStates:
    """The states with the weight of every token; as they are where all weigh the same.

    Args:
        row: with the offsets of its tokens, unless the prompt is plain.
    """
    if read.plain or row.offsets is None:
        return row
    weights = [token_weight(read, *offset) for offset in row.offsets.tolist()]
    if len(set(weights)) < 2:
        return row
    emphasis = torch.ones(len(row.roles), dtype=torch.float32, device=row.roles.device)
    first, stop = row.span
    emphasis[first:stop] = torch.tensor(weights, dtype=torch.float32, device=row.roles.device)
    return replace(row, emphasis=emphasis)


def token_weight(read: EmphasisedPrompt, start: int, stop: int) -> float:
    """The mean weight of a token's characters, blanks left out where it has others."""
    places = range(start, min(max(stop, start + 1), len(read.text)))
    letters = [place for place in places if not read.text[place].isspace()]
    weights = [read.weights[place] for place in letters or places] or [1.0]
    return weights[0] if len(set(weights)) == 1 else math.fsum(weights) / len(weights)


def emphasis_notes(prompt: str, row: PromptStates) -> tuple[str, ...]:
    """What a user should know of weights that have no effect."""
    read = read_emphasis(prompt)
    if read.plain or row.emphasis is not None or not row.used:
        return ()
    weight = token_weight(read, *row.offsets[0].tolist()) if row.offsets is not None else 1.0
    if weight == 1:
        return ("no word with a weight is among the tokens that are read, so it has no effect",)
    return (
        f"the weight {weight:g} over the whole prompt has no effect, for a weight says how much "
        "some words count beside the others",
    )


def _pieces(prompt: str) -> Iterator[tuple[str, float]]:
    """Pieces of a prompt without marks and their weights, in order."""
    for written, kept, _ in ESCAPED:
        prompt = prompt.replace(written, kept)
    waiting: list[tuple[str, float, int | None]] = [(prompt, 1.0, 0)]
    while waiting:
        text, weight, depth = waiting.pop()
        if depth is None:
            yield _meant(text), weight
        else:
            waiting += [_inside(part, weight, depth) for part in reversed(_parts(text))]


def _parts(text: str) -> list[str]:
    """Outermost pairs of parentheses, and what lies between them."""
    parts: list[str] = []
    part, depth = "", 0
    for char in text:
        if char == "(" and depth == 0 and part:
            parts.append(part)
            part = ""
        depth += (char == "(") - (char == ")")
        part += char
        if char == ")" and depth == 0:
            parts.append(part)
            part = ""
    return [*parts, part] if part else parts


def _inside(part: str, weight: float, depth: int) -> tuple[str, float, int | None]:
    """What a pair of parentheses holds, its weight and depth; None where the part is no pair."""
    if not (len(part) >= 2 and part[0] == "(" and part[-1] == ")"):
        return part, weight, None
    check(
        depth < DEEPEST,
        f"the prompt has more than {DEEPEST} pairs of parentheses around one another; expected "
        "fewer, so write a weight as (word:1.3)",
    )
    part, weight = part[1:-1], weight * PAIR
    colon = part.rfind(":")
    with contextlib.suppress(ValueError):
        if colon > 0:
            part, weight = part[:colon], float(part[colon + 1 :])
    return part, weight, depth + 1


def _meant(text: str) -> str:
    for _, kept, meant in ESCAPED:
        text = text.replace(kept, meant)
    return text
