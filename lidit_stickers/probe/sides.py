"""Whether the refined text says on which side each of two things stands.

    python -m lidit_stickers.probe.sides --model runs/mine/final.safetensors

In a causal LLM the first thing that is named comes before the words that say where it stands, so
that the linguistic token refiner has to tell it. A ridge regression from a noun's token to its
side, -1 or 1, is fitted on two thirds of the captions and judged on the others; its R² is 1 where
the token says the side and 0 or below where it does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from lidit_core.errors import check, exit_status
from lidit_core.model.attention import scaled_dot_product
from lidit_core.pipeline import Pipeline, load_pipeline
from lidit_core.text.cache import PromptStates
from lidit_core.text.encoder import pad_states

from ..token_places import explained

NOUNS = ("cat", "dog", "frog", "car", "banana", "tree", "fish", "fox", "house", "umbrella")
SIDES = {"to the left of": -1.0, "to the right of": 1.0}  # of what is named first
TIME = 900.0  # of 1000, noise; the refiner's gates depend on it
SEED = 20_261_128


@dataclass(frozen=True)
class KnownSides:
    """R² of the sides of the thing named first and of the one named second."""

    read: str  # "states" or "refined"
    first: float
    second: float


def captions(count: int) -> list[tuple[str, str, str, float]]:
    """Caption, what is named first, what second, the side of the first; in a fixed order."""
    every = [
        (f"a {first} {words} a {second}", first, second, side)
        for (first, second), (words, side) in product(permutations(NOUNS, 2), SIDES.items())
    ]
    Random(SEED).shuffle(every)
    check(3 <= count <= len(every), f"--count is {count}; expected 3 to {len(every)}")
    return every[:count]


def token_of(states: PromptStates, end: int) -> int:
    """The place of the token that holds the character before end."""
    assert states.offsets is not None  # asked for
    inside = (states.offsets[:, 0] < end) & (states.offsets[:, 1] >= end)
    return states.span[0] + int(inside.int().argmax())


@torch.no_grad()
def read(pipeline: Pipeline, rows: Sequence[PromptStates]) -> dict[str, Tensor]:
    """Tokens (captions, tokens, width) as the first branch has them, before and after refining."""
    states = pad_states(rows).to(pipeline.device)
    side, t = pipeline.model.text_side, torch.full((len(rows),), TIME, device=pipeline.device)
    refined = side.linguistic[0](states, t, pipeline.model.dtype, scaled_dot_product)
    if side.config.fusion == "refiner":
        refined = side.collaborative({0: refined}, scaled_dot_product)[0]
    tokens = refined.tokens[:, refined.registers :]
    return {"states": states.hidden.float().cpu(), "refined": tokens.float().cpu()}


def known_sides(pipeline: Pipeline, count: int) -> list[KnownSides]:
    """What the states and the refined tokens of the first branch say.

    Raises:
        LiDiTError: fewer than three captions, or more than there are.
    """
    asked, fitted = captions(count), 2 * count // 3
    rows = pipeline.encoders[0].encode_rows([caption for caption, *_ in asked], offsets=True)
    firsts = [token_of(row, 2 + len(a)) for row, (_, a, _, _) in zip(rows, asked)]
    seconds = [token_of(row, len(caption)) for row, (caption, *_) in zip(rows, asked)]
    side = torch.tensor([side for *_, side in asked]).unsqueeze(1)
    found = []
    for name, tokens in read(pipeline, rows).items():
        each = torch.arange(count)
        told = [
            F.layer_norm(t, t.shape[-1:]) for t in (tokens[each, firsts], tokens[each, seconds])
        ]
        first, second = (explained(t.unsqueeze(1), side, fitted) for t in told)
        found.append(KnownSides(name, first, second))
    return found


def table(rows: Sequence[KnownSides]) -> str:
    """A line each for the LLM's states and the refined tokens."""
    lines = ["read      R² of the first  of the second"]
    return "\n".join(lines + [f"{r.read:<8}  {r.first:<15.2f}  {r.second:.2f}" for r in rows])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="stickers", help="a name or a checkpoint (stickers)")
    parser.add_argument("--llm", action="append", default=[], help="its LLM, where it is not found")
    parser.add_argument("--count", type=int, default=180, help="captions (180)")
    options = parser.parse_args(words)
    print(table(known_sides(load_pipeline(options.model, options.llm), options.count)))


if __name__ == "__main__":
    sys.exit(exit_status("sides", main))
