"""What a frozen U-Net adds to the training of a bridge, counted on torch's meta device."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from lidit_core.unet.families import UNetShape

from ....loop.computing.eight_bits import bytes_in_eight_bits
from ....loop.computing.frozen import holds_half
from ....plan.counting import META, Cost, count
from ....plan.workload import FLOAT32
from ....recipe import EIGHT_BITS, Compute, Recipe, Through
from ...adapter.plan import KEPT_BY_CHECKPOINTS
from ...adapter.target import UNetTarget, pooled_width
from ...adapter.unet import build_unet, first_blocks, predicted
from .input import latent_shapes
from .measuring import MOST


@dataclass(frozen=True)
class FrozenUNet:
    """The weights of a U-Net that does not learn."""

    parameters: int
    eight: int  # bytes with the matrices in 8 bits

    def memory(self, compute: Compute, mixed: bool) -> dict[str, int]:
        """The bytes that they take."""
        held = holds_half(compute, mixed)
        own = self.parameters * (2 if held else FLOAT32)
        return {
            "U-Net, frozen": self.eight if compute.frozen in EIGHT_BITS else own,
            "its matrices in bf16, while they are used": self.parameters * 2 * (mixed and not held),
        }


@dataclass(frozen=True)
class ThroughPlan:
    """A U-Net, and what a prompt costs of it."""

    options: Through
    family: str
    unet: FrozenUNet
    passes: tuple[Cost, ...]  # of one latent and the gradient to its conditioning, by stage
    learnt: tuple[Cost, ...]  # the same as far as the loss needs it: to a hidden state, or all
    checkpointing: bool

    @property
    def saved(self) -> int:
        """Bytes of a prompt's activations, at the stage where they are most."""
        share = KEPT_BY_CHECKPOINTS if self.checkpointing else 1.0
        return round(share * self.options.points * max(cost.saved for cost in self.learnt))

    @property
    def guided(self) -> int:
        """Passes along a trajectory, at most: with the prompt and without it, but for its end."""
        return 2 * self.options.steps - 1

    def flops(self, stage: int) -> float:
        """Operations of a prompt: the hidden states that are wanted are computed by themselves, and
        then the trajectory's end is not."""
        whole, cost, points = self.passes[stage], self.learnt[stage], self.options.points
        again, wanted = (2 if self.checkpointing else 1), bool(self.options.blocks)
        each = (again + wanted) * cost.forward + cost.backward
        return (self.guided - wanted) * whole.forward + points * each

    def measured(self, recipe: Recipe, held_out: int) -> float:
        """Operations of what is measured: trajectories once, then the bridge at each of them."""
        asked = recipe.validation
        often = recipe.steps // asked.every if asked.every else 0
        each = self.guided + asked.times * (1 + often + asked.at_start + 2)  # two for the file
        return min(held_out, MOST) * each * self.passes[-1].forward


def make_through_plan(recipe: Recipe, unet: UNetTarget, rows: int, mixed: bool) -> ThroughPlan:
    """Count what a prompt costs of the frozen U-Net, at each stage's size.

    Args:
        rows: of a prompt's conditioning, the mean.
    """
    assert recipe.bridge is not None and recipe.bridge.through is not None
    sides = [shape[-1] for shape in latent_shapes(recipe, unet)]
    blocks = recipe.bridge.through.blocks
    counted = [unet_cost(unet.shape, side, rows, mixed) for side in sides]
    learnt = counted
    if blocks:
        learnt = [unet_cost(unet.shape, side, rows, mixed, blocks) for side in sides]
    return ThroughPlan(
        recipe.bridge.through,
        unet.shape.family,
        counted[0][0],
        tuple(cost for _, cost in counted),
        tuple(cost for _, cost in learnt),
        recipe.compute.checkpointing,
    )


@functools.lru_cache(maxsize=64)
def unet_cost(
    shape: UNetShape, side: int, rows: int, mixed: bool, blocks: int = 0
) -> tuple[FrozenUNet, Cost]:
    """A U-Net's weights, and the cost of a pass and of the gradient to its conditioning.

    Args:
        blocks: after which it ends; 0 = all of it.
    """
    unet = build_unet(shape, META).requires_grad_(False)
    run = first_blocks(unet, blocks) if blocks else unet
    z = torch.empty(1, shape.in_channels, side, side, device=META)
    t = torch.empty(1, device=META)
    context = torch.empty(1, rows, shape.context_width, device=META, requires_grad=True)
    width = pooled_width(shape)
    pooled = torch.empty(1, width, device=META) if width else None
    own = list(unet.parameters())
    cost = count(lambda _: predicted(run, z, t, context, None, pooled), own, mixed)
    return FrozenUNet(sum(p.numel() for p in own), bytes_in_eight_bits(unet, mixed)), cost
