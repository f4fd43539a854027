"""Reckons what a micro batch keeps until its backward pass, from what a picture keeps."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.model.config import LiDiTConfig

from ....plan.workload import FLOAT32, SampleTokens
from ....recipe import Routing
from ..trained import Trained
from .cost import ModelCost, content_cost, model_cost

BATCH_TENSORS = 6  # like the latents: clean, noise, noisy, target, prediction, its patches


@dataclass(frozen=True)
class Activations:
    """Bytes kept for the backward pass of one micro batch."""

    text: int  # of the refiners
    blocks: int  # of the DiT's blocks
    rest: int  # of patches, position, final layer, the loss and the batch itself

    @property
    def total(self) -> int:
        return self.text + self.blocks + self.rest


def saved_activations(
    config: LiDiTConfig,
    sizes: SampleTokens,
    batch: int,
    trained: Trained,
    mixed: bool = False,
    checkpointing: bool = False,
    classes: int = 0,
    contrast: bool = False,
    routing: Routing | None = None,
    beside: int = 0,
) -> Activations:
    """Reckon the bytes kept of a micro batch.

    Args:
        mixed: whether it computes in bfloat16 under autocast.
        checkpointing: a block keeps its input, and one block at a time everything.
        classes: of the map that learns content, 0 = none.
        contrast: every sample has another one's velocity beside its own target.
        routing: leads some of the tokens around some blocks.
        beside: bytes that a map beside the model keeps of one picture.
    """
    cost = model_cost(config, sizes, trained, mixed, routing)
    each, (refiners, rest) = [block.saved for block in cost.passed], _outside(cost)
    rest += beside + content_cost(config.width, sizes.tokens, classes, mixed).saved
    latents = sizes.tokens * config.patch**2 * config.latent.channels
    rest += FLOAT32 * (BATCH_TENSORS + contrast) * latents
    if checkpointing:
        number = 2 if mixed else FLOAT32
        each = [len(each) * number * sizes.tokens * config.width, max(each, default=0)]
    made = [block.saved for block in cost.once.passed] if cost.once else []
    text, more = _outside(cost.once) if cost.once else (0, 0)
    made = [max(made, default=0)] if checkpointing else made
    return Activations(batch * refiners + text, batch * sum(each) + sum(made), batch * rest + more)


def _outside(cost: ModelCost) -> tuple[int, int]:
    """Bytes of the refiners, and of what is neither of them nor of the blocks."""
    inside = sum(block.saved for block in cost.passed)
    return cost.refiners, cost.whole.saved - cost.refiners - inside
