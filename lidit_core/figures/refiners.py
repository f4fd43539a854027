"""What the refiners do with a prompt: their attention, their gates, and states before and after.

Shapes: L tokens of one LLM, instruction and prompt, D the model's width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import check, is_number, shown
from ..model.attention import scaled_dot_product
from ..model.branch import Branch
from ..model.collaborative import others_of
from ..model.refiners import RefinerBlock
from ..model.text_side import TEXT_AS_CONFIGURED, TextOptions, TextSide
from ..text.states import LLMStates
from .attention import NotedAttention
from .tokens import TokenPlaces

MIDDLE = 0.5  # the time of a figure where none is asked for; 1 = noise
TIMES = tuple(n / 20 for n in range(1, 21))


@dataclass(frozen=True, eq=False)
class ReadPrompt:
    """One prompt as a model's text side reads it; branches of weight 0 and padding are left out."""

    side: TextSide
    text: Mapping[int, LLMStates]  # by branch; the first row of each is looked at
    places: Mapping[int, TokenPlaces] = field(default_factory=dict)  # where they are known
    options: TextOptions = TEXT_AS_CONFIGURED
    dtype: torch.dtype = torch.float32  # to compute in

    def __post_init__(self) -> None:
        rows = {i: s[:1].trimmed() for i, s in self.text.items() if self.options.of(i).weight}
        rows = {i: states for i, states in rows.items() if states.roles.shape[1]}
        check(bool(rows), "no LLM has read a token of this prompt; expected a few words")
        object.__setattr__(self, "text", dict(sorted(rows.items())))

    def llm(self, branch: int) -> str:
        return self.side.linguistic[branch].llm.name

    def tokens(self, branch: int) -> tuple[str, ...]:
        """What each token reads of the prompt, "" where it is the template's or not known."""
        length = self.text[branch].roles.shape[1]
        places = self.places.get(branch)
        return places.labels(length) if places else ("",) * length

    def refined(self, times: Sequence[float]) -> dict[int, Branch]:
        """The branches after both refiners, a row a time."""
        rows = {i: states[[0] * len(times)] for i, states in self.text.items()}
        device = next(iter(rows.values())).hidden.device
        t = torch.tensor(times, dtype=torch.float32, device=device) * 1000
        return self.side.refined(rows, t, self.dtype, scaled_dot_product, self.options)


@dataclass(frozen=True, eq=False)
class RefinerAttention:
    """How much each token of one LLM looks at each other one in its refiner."""

    llm: str
    tokens: tuple[str, ...]  # registers first, where the model has some
    full: Tensor  # (L, L) float32, rows sum to 1; the mean over blocks and heads
    causal: Tensor  # the same under the causal mask
    trained: str  # which of both the model was trained with, or its switch is set to


@torch.no_grad()
def refiner_attention(read: ReadPrompt, time: float = MIDDLE) -> tuple[RefinerAttention, ...]:
    """The linguistic refiner's attention with and without the causal mask, for every LLM.

    Args:
        time: in 0 to 1, 1 = noise: the gates depend on it, and so do all blocks after the first.

    Raises:
        LiDiTError: the model has no refiner block, or the time is none.
    """
    _check_time(time)
    return tuple(_attention(read, i, time) for i in read.text)


def _attention(read: ReadPrompt, branch: int, time: float) -> RefinerAttention:
    refiner, states = read.side.linguistic[branch], read.text[branch]
    check(len(refiner.blocks) > 0, f"the refiner of {read.llm(branch)} has no block to look into")
    t = torch.full((1,), time * 1000, device=states.hidden.device)
    maps = {}
    for full in (True, False):
        noted = NotedAttention()
        options = replace(read.options.of(branch), full_attention=full)
        refiner(states, t, read.dtype, noted, options)
        maps[full] = noted.mean()
    asked = read.options.of(branch).full_attention
    trained = refiner.config.full_attention if asked is None else asked
    registers = tuple(f"register {n + 1}" for n in range(refiner.config.registers))
    tokens = registers + read.tokens(branch)
    trained = "full" if trained else "causal"
    return RefinerAttention(read.llm(branch), tokens, maps[True], maps[False], trained)


@dataclass(frozen=True, eq=False)
class Gate:
    """How far one gate of the refiners is open, by time."""

    llm: str
    name: str
    times: tuple[float, ...]  # 1 = noise
    size: Tensor  # (times,) float32: the mean of the gate's absolute values, strength included


@torch.no_grad()
def gates_over_time(read: ReadPrompt, times: Sequence[float] = TIMES) -> tuple[Gate, ...]:
    """The gates of both refiners as functions of the time, for every LLM.

    Raises:
        LiDiTError: a time is none, or no refiner that reads the prompt has a block.
    """
    for time in times:
        _check_time(time)
    refined = read.refined(times)
    found = tuple(
        Gate(read.llm(i), name, tuple(times), gate.float().abs().mean(dim=(1, 2)).cpu())
        for i in refined
        for name, gate in (*_linguistic(read, i, refined[i]), *_collaborative(read, i, refined))
    )
    names = ", ".join(read.llm(i) for i in refined)
    check(bool(found), f"the refiners of {names} have no block, and so no gate to look into")
    return found


def _linguistic(read: ReadPrompt, i: int, branch: Branch) -> Iterator[tuple[str, Tensor]]:
    options, refiner = read.options.of(i), read.side.linguistic[i]
    gated = refiner.config.gated if options.gated is None else options.gated
    for n, block in enumerate(cast(Iterable[RefinerBlock], refiner.blocks), start=1):
        both = block.gates(branch.c) if gated else [branch.c.new_ones(len(branch.c), 1, 1)] * 2
        for kind, gate in zip(("attention", "MLP"), both, strict=True):
            yield f"refiner {n}, {kind}", gate * options.strength


def _collaborative(
    read: ReadPrompt, i: int, refined: Mapping[int, Branch]
) -> Iterator[tuple[str, Tensor]]:
    if len(refined) < 2 or (read.options.fusion or read.side.config.fusion) != "refiner":
        return
    share = others_of(refined, i).share
    for n, block in enumerate(read.side.collaborative.branches[i], start=1):
        parts = block.modulation(refined[i].c)  # shift, scale and gate of each
        for kind, gate in (("attention", parts[2]), ("MLP", parts[5])):
            yield f"collaborative {n}, {kind}", gate * share


@dataclass(frozen=True, eq=False)
class StateSimilarity:
    """How alike the tokens of one LLM are, before its refiner and after."""

    llm: str
    tokens: tuple[str, ...]
    states: Tensor  # (L, L) float32: cosines of the LLM's states, the mean over its layers read
    refined: Tensor  # (L, L) float32: cosines of the tokens after both refiners


@torch.no_grad()
def state_similarity(read: ReadPrompt, time: float = MIDDLE) -> tuple[StateSimilarity, ...]:
    """Cosines of all pairs of positions, of LLM states and of refined ones, for every LLM.

    Raises:
        LiDiTError: the time is none.
    """
    _check_time(time)
    found = []
    for i, branch in read.refined([time]).items():
        states = read.text[i].hidden[0].unflatten(-1, (read.side.linguistic[i].llm.taps, -1))
        tokens = branch.tokens[0, branch.registers :, None]
        found.append(
            StateSimilarity(read.llm(i), read.tokens(i), _cosines(states), _cosines(tokens))
        )
    return tuple(found)


def _cosines(x: Tensor) -> Tensor:
    """Compute the cosines of all pairs of positions, the mean over K: (L, K, C) -> (L, L)."""
    unit = F.normalize(x.float(), dim=-1)
    return (torch.einsum("ikc,jkc->ij", unit, unit) / x.shape[1]).cpu()


def _check_time(time: float) -> None:
    check(
        is_number(time) and 0 <= time <= 1,
        f"time is {shown(time)}; expected a number from 0 to 1 (1 = noise)",
    )
