"""Counts what a LI-DiT costs: operations, and bytes kept for the backward pass.

The model is run on torch's meta device with few blocks. Neighbours in which the same weights learn
cost the same, but for the first of them, before which no gradient may pass; so two stand for all,
and the second is added as often as others are left out.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lidit_core.model.config import LiDiTConfig
from lidit_core.model.dit import LiDiT, LiDiTBlock
from lidit_core.text.states import INSTRUCTION, PROMPT, LLMStates

from ....data.token_guess import TextTokens
from ....plan.counting import META, Cost, SoFar, count
from ....plan.workload import SampleTokens
from ....recipe import Alignment, Lora, Place, Routing
from ..alignment import AlignmentHead
from ..lora import LoraAdapter
from ..places import PositionHead
from ..trained import Trained, everything, linear_layers, weight_shapes

BLOCKS = "blocks."  # how the names in the DiT's blocks begin
STANDING = 2  # blocks that stand for neighbours in which the same weights learn


@dataclass(frozen=True)
class ModelCost:
    """What a LI-DiT takes for one picture, or for a micro batch whatever its size."""

    whole: Cost
    refiners: int  # bytes saved of them
    passed: tuple[Cost, ...]  # of each block that gradients pass through, in any order
    once: ModelCost | None = None  # of one picture: what a micro batch takes beside its pictures

    def forward(self, pictures: float = 1) -> float:
        """Operations of so many pictures that are drawn at once."""
        return pictures * self.whole.forward + (self.once.forward() if self.once else 0)

    def training(self, checkpointing: bool) -> int:
        """Operations of a forward and a backward pass; checkpointing runs blocks again."""
        again = sum(block.forward for block in self.passed) if checkpointing else 0
        return self.whole.forward + self.whole.backward + again


def model_cost(
    config: LiDiTConfig,
    sizes: SampleTokens,
    trained: Trained | None = None,
    mixed: bool = False,
    routing: Routing | None = None,
) -> ModelCost:
    """Count a LI-DiT.

    Args:
        trained: which weights learn; by default all.
        mixed: whether it computes in bfloat16 under autocast.
        routing: leads some of the tokens around some blocks.
    """
    if routing:
        return _routed_cost(config, sizes, trained, mixed, routing)
    trained = trained or everything()
    learning = frozenset(name for name in weight_shapes(config) if trained.weight(name))
    adapted = frozenset(name for name in linear_layers(config) if trained.adapted(name))
    text = tuple(sorted(sizes.text.items()))
    return _model_cost(config, sizes.tokens, text, learning, adapted, trained.lora, mixed)


def _routed_cost(config: LiDiTConfig, sizes: SampleTokens, trained, mixed, routing) -> ModelCost:
    """Count routed blocks: those that tokens go around cost what blocks of fewer tokens do."""
    all_ = model_cost(config, sizes, trained, mixed)
    fewer = replace(sizes, tokens=routing.kept(sizes.tokens))
    few = model_cost(config, fewer, trained, mixed)
    count = min(len(routing.blocks(config.depth)), len(all_.passed))
    whole, stay = all_.whole, len(all_.passed) - count
    for a, b in zip(all_.passed[stay:], few.passed[stay:]):
        whole = whole - a + b
    passed = all_.passed[:stay] + few.passed[stay:]
    return ModelCost(whole, all_.refiners, passed, all_.once)


@functools.lru_cache(maxsize=256)
def _model_cost(
    config: LiDiTConfig,
    tokens: int,
    text: tuple[tuple[int, TextTokens], ...],
    learning: frozenset[str],
    adapted: frozenset[str],
    lora: Lora | None,
    mixed: bool,
) -> ModelCost:
    """Run the model, once for everything that decides its cost.

    Args:
        learning, adapted: names of weights that learn, and of layers that have a LoRA.
    """
    alike = _alike(config.depth, learning | adapted)
    standing = [i for run in alike for i in run[:STANDING]]
    model = _some_blocks(config, learning, adapted, lora, standing)
    left_out = [run[1] for run in alike for _ in run[STANDING:]]

    def of(pictures: int) -> ModelCost:
        whole, refiners, costs = _count(model, tokens, dict(text), mixed, pictures)
        each = dict(zip(standing, costs))
        more = [each[i] for i in left_out]
        passed = tuple(cost for cost in (*costs, *more) if cost.saved)
        return ModelCost(sum(more, whole), refiners, passed)

    one = of(1)
    if lora is None or lora.kind == "lora":
        return one
    return _parted(one, of(2))


def _parted(one: ModelCost, two: ModelCost) -> ModelCost:
    """Tell what each picture takes from what is made of weights, by runs of one and of two."""
    each = ModelCost(
        two.whole - one.whole,
        two.refiners - one.refiners,
        tuple(b - a for a, b in zip(one.passed, two.passed, strict=True)),
    )
    once = ModelCost(
        one.whole - each.whole,
        one.refiners - each.refiners,
        tuple(a - b for a, b in zip(one.passed, each.passed)),
    )
    return replace(each, once=once)


def _alike(depth: int, learning: frozenset[str]) -> list[list[int]]:
    """Part the blocks into runs of neighbours in which the same names learn."""
    inside: list[set[str]] = [set() for _ in range(depth)]
    for name in learning:
        if name.startswith(BLOCKS):
            _, index, rest = name.split(".", 2)
            inside[int(index)].add(rest)
    return [list(run) for _, run in itertools.groupby(range(depth), key=inside.__getitem__)]


class _BlockByBlock:
    """Run blocks and note what each takes.

    Autograd goes back through the blocks in turn, so that a block's backward pass is what happens
    from where its output has its gradient to where its input has it; the first one's is not told.
    """

    def __init__(self, so_far: SoFar) -> None:
        self.so_far = so_far
        self.forward: list[Cost] = []
        self.reached: dict[int, int] = {}  # operations when a block's output has its gradient

    def __call__(self, index: int, block: LiDiTBlock, x: Tensor, *rest) -> Tensor:
        before, x = self.so_far(), block(x, *rest)
        self.forward.append(self.so_far() - before)
        if x.requires_grad:
            x.register_hook(lambda _: self.reached.update({index: self.so_far().forward}))
        return x

    def costs(self) -> list[Cost]:
        return [cost + Cost(backward=self._backward(i)) for i, cost in enumerate(self.forward)]

    def _backward(self, index: int) -> int:
        both = index in self.reached and index - 1 in self.reached
        return self.reached[index - 1] - self.reached[index] if both else 0


def _count(
    model: LiDiT, tokens: int, text: Mapping[int, TextTokens], mixed: bool, pictures: int
) -> tuple[Cost, int, list[Cost]]:
    """Tell the cost of the whole, the bytes saved of the refiners, and the cost of each block."""
    config = model.config
    rows, columns = (side * config.patch for side in _sides(tokens))
    x = torch.empty(pictures, config.latent.channels, rows, columns, device=META)
    states = {i: _states(config.llms[i].state_width, read, pictures) for i, read in text.items()}
    blocks: list[_BlockByBlock] = []
    refiners: list[int] = []

    def run(so_far: SoFar) -> Tensor:
        blocks.append(_BlockByBlock(so_far))
        model.text_side.register_forward_hook(lambda *_: refiners.append(so_far().saved))
        return model(x, torch.empty(pictures, device=META), states, run_block=blocks[0])

    whole = count(run, model.parameters(), mixed)
    return whole, refiners[0], blocks[0].costs()


def _some_blocks(
    config: LiDiTConfig,
    learning: frozenset[str],
    adapted: frozenset[str],
    lora: Lora | None,
    blocks: Sequence[int],
) -> LiDiT:
    """Build a model on the meta device that has some blocks of the whole one, and its LoRA."""
    model = LiDiT(replace(config, depth=len(blocks)), device=META)

    def original(name: str) -> str:
        if not name.startswith(BLOCKS):
            return name
        _, index, rest = name.split(".", 2)
        return f"{BLOCKS}{blocks[int(index)]}.{rest}"

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(original(name) in learning)
    if lora:
        linear = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear))
        model.lora = LoraAdapter({k: m for k, m in linear if original(k) in adapted}, lora)
    return model


def _sides(tokens: int) -> tuple[int, int]:
    """Choose rows and columns of so many image tokens, as near to a square as they can be."""
    rows = next(n for n in range(int(tokens**0.5), 0, -1) if tokens % n == 0)
    return rows, tokens // rows


def _states(width: int, text: TextTokens, texts: int) -> LLMStates:
    """Make states of texts of a kind, with as much instruction as the image tokens do not read."""
    roles = torch.full((texts, text.read), PROMPT, dtype=torch.int32)
    roles[:, : text.read - text.kept] = INSTRUCTION
    return LLMStates(torch.empty(texts, text.read, width, device=META), roles)


@functools.lru_cache(maxsize=64)
def content_cost(width: int, tokens: int, classes: int, mixed: bool = False) -> Cost:
    """Count what the map that learns content takes for one picture; 0 classes = there is none."""
    if not classes:
        return Cost()
    names = nn.Linear(width, classes, device=META)
    x = torch.empty(1, tokens, width, device=META, requires_grad=True)
    content = torch.empty(tokens, dtype=torch.long, device=META)
    return count(
        lambda _: F.cross_entropy(names(x).flatten(0, 1), content), names.parameters(), mixed
    )


@functools.lru_cache(maxsize=64)
def alignment_cost(
    recipe: Alignment, width: int, features: int, tokens: int, mixed: bool = False
) -> Cost:
    """Count what the map that is aligned takes for one picture.

    Args:
        features: numbers in one of the encoder's.
    """
    with torch.device(META):
        aligned = AlignmentHead(recipe, width, features)
    x = torch.empty(1, tokens, width, device=META, requires_grad=True)
    seen = torch.empty(1, features, *_sides(tokens), device=META)
    return count(lambda _: aligned(x, seen), aligned.parameters(), mixed)


@functools.lru_cache(maxsize=64)
def place_cost(recipe: Place, width: int, tokens: int, mixed: bool = False) -> Cost:
    """Count what the map that tells tokens' places takes for one picture."""
    with torch.device(META):
        placed = PositionHead(recipe, width)
    x = torch.empty(1, tokens, width, device=META, requires_grad=True)
    return count(lambda _: placed(x, _sides(tokens)[0]), placed.parameters(), mixed)


def muon_flops(config: LiDiTConfig, trained: Trained, processes: int = 1) -> int:
    """Count the operations of one step of Muon on the blocks' matrices, for any batch.

    Args:
        processes: which share small matrices of one shape, and each make the others; of all.
    """
    shapes = Counter(
        (shape[0], math.prod(shape[1:]))
        for name, shape in weight_shapes(config).items()
        if len(shape) > 1 and BLOCKS in name and trained.weight(name)
    )
    return sum(orthogonalising_flops(shape, count, processes) for shape, count in shapes.items())


@functools.lru_cache(maxsize=64)
def orthogonalising_flops(shape: tuple[int, int], matrices: int, processes: int) -> int:
    """The operations of so many matrices of one shape: the busiest process's, for every process."""
    from ....loop.muon import (  # slow to import, for it runs on several devices
        orthogonalised,
        stacks,
    )

    one = count(lambda _: orthogonalised(torch.empty(1, *shape, device=META)), ()).forward
    made = (size if size < processes else -(-size // processes) for size in stacks(shape, matrices))
    return one * processes * sum(made)
