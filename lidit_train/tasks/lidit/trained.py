"""The weights of a LI-DiT that learn, and how many there are, without making any of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lidit_core.checkpoints.refiner import branch_places
from lidit_core.model.config import LiDiTConfig
from lidit_core.model.dit import LiDiT

from ...recipe import Lora
from .lora_kinds import learnt_numbers

PARTS = (  # of a LI-DiT, by how its weights' names begin; the plan lists them in this order
    ("DiT blocks", ("blocks.",)),
    ("token refiners", ("text_side.linguistic.",)),
    ("collaborative refiner", ("text_side.collaborative.",)),
    ("position block", ("position.", "wide_position.")),
    ("other maps", ("patch_embedder.", "t_embedder.", "pooled_text.", "final_layer.")),
)


@dataclass(frozen=True)
class Trained:
    """The weights that learn: a choice among the model's own, and a LoRA beside them or none."""

    chosen: Callable[[str], bool] = lambda name: True  # by name in the state dict
    lora: Lora | None = None

    def weight(self, name: str) -> bool:
        return self.chosen(name)

    def adapted(self, layer: str) -> bool:
        """Whether the linear layer of this name has a LoRA."""
        parts = self.lora.layers if self.lora else ()
        return any(layer == part or layer.startswith(part + ".") for part in parts)

    def added(self, layer: str, inputs: int, outputs: int) -> int:
        """How many numbers of a LoRA learn beside the linear layer; 0 = it has none."""
        if self.lora is None or not self.adapted(layer):
            return 0
        return learnt_numbers(self.lora, inputs, outputs)


def everything() -> Trained:
    return Trained()


def refiners_of(branches: Collection[int]) -> Trained:
    """The choice of only the refiners of these branches."""
    places = tuple(place for i in branches for place in branch_places(i).values())
    return Trained(lambda name: name.startswith(places))


def with_lora(lora: Lora) -> Trained:
    """The choice of none of the model's own weights, and a LoRA in the parts that it names."""
    return Trained(lambda name: False, lora)


def trained_by(
    trains: str, lora: Lora, config: LiDiTConfig, fresh: Collection[int] = ()
) -> Trained:
    """What a recipe trains.

    Args:
        trains, lora: as the recipe has them.
        fresh: branches that begin anew, of which "refiners" trains the refiners; () = all.
    """
    if trains == "lora":
        return with_lora(lora)
    if trains == "refiners":
        return refiners_of(fresh or range(len(config.llms)))
    return everything()


@functools.lru_cache(maxsize=8)
def weight_shapes(config: LiDiTConfig) -> Mapping[str, tuple[int, ...]]:
    """Every weight's shape by its name in the state dict; no memory is taken for them."""
    return {name: tuple(p.shape) for name, p in on_meta(config).named_parameters()}


@functools.lru_cache(maxsize=8)
def linear_layers(config: LiDiTConfig) -> Mapping[str, tuple[int, int]]:
    """The (in, out) of every linear layer by name."""
    layers = on_meta(config).named_modules()
    return {name: (m.in_features, m.out_features) for name, m in layers if isinstance(m, nn.Linear)}


def on_meta(config: LiDiTConfig) -> LiDiT:
    """A LI-DiT that takes no memory."""
    return LiDiT(config, device=torch.device("meta"))


@dataclass(frozen=True)
class Weights:
    """How many numbers there are, and how many of them learn."""

    total: int  # of the model without a LoRA
    trained: int  # with a LoRA's
    lora: int  # of those that learn
    stepped: int  # of those that learn: without refiners that no step reads, which get no gradient
    matrices: int  # of the model's own that learn: in the blocks' matrices, which Muon takes
    largest: int  # of those matrices: in the largest
    parts: Mapping[str, tuple[int, int]]  # by its name: total and trained

    @property
    def frozen(self) -> int:
        return self.total - (self.trained - self.lora)


def count_weights(
    config: LiDiTConfig, trained: Trained, branches: Collection[int], fused: bool
) -> Weights:
    """Count a LI-DiT's weights.

    Args:
        branches: that take part in some step; the refiners of others never get a gradient.
        fused: whether some step reads several of them, through the collaborative refiner.
    """
    shapes, sizes = weight_shapes(config), weight_sizes(config)
    layers = linear_layers(config)
    added = {f"{k}.lora": trained.added(k, *layers[k]) for k in layers if trained.adapted(k)}
    own = {name: size for name, size in sizes.items() if trained.weight(name)}
    read = reads(config, branches, fused)
    stepped = {name: size for name, size in {**own, **added}.items() if read(name)}
    matrix = {k: size for k, size in own.items() if "blocks." in k and len(shapes[k]) > 1}
    parts = {
        part: (_of(sizes, places), _of(own, places) + _of(added, places)) for part, places in PARTS
    }
    learning = sum(own.values()) + sum(added.values())
    return Weights(
        sum(sizes.values()), learning, sum(added.values()), sum(stepped.values()),
        sum(matrix.values()), max(matrix.values(), default=0), parts,
    )  # fmt: skip


def weight_sizes(config: LiDiTConfig) -> dict[str, int]:
    """Numbers in every weight by its name."""
    return {name: math.prod(shape) for name, shape in weight_shapes(config).items()}


def reads(config: LiDiTConfig, branches: Collection[int], fused: bool) -> Callable[[str], bool]:
    """Whether a weight takes part in steps that read these branches."""
    absent = set(range(len(config.llms))) - set(branches)
    places = tuple(place for i in absent for place in branch_places(i).values())
    if not fused or config.refiner.fusion != "refiner":
        places += ("text_side.collaborative.",)
    return lambda name: not name.startswith(places)


def _of(sizes: Mapping[str, int], places: tuple[str, ...]) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(places))


def trained_branches(model: LiDiT) -> set[int]:
    """The branches of which some weight is trained."""
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    return {
        i
        for i in range(len(model.config.llms))
        if any(name.startswith(tuple(branch_places(i).values())) for name in learning)
    }
