"""What a model holds after some of its blocks, in the place of what it says at last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ....lidit_core.errors import LiDiTError
from .gradients import blocks_of

SMALLEST = 1e-6  # root mean square by which a state is divided


@dataclass(eq=False)
class _Reached(Exception):
    """Ends a pass of the model: the rest of it is not needed."""

    states: list[Tensor]


@contextmanager
def _stopped(net: nn.Module, blocks: int, ran: list[None]) -> Iterator[None]:
    """Let a model's passes end once so many blocks of its lists have run.

    Args:
        ran: an entry is added for each block that has run, in whatever order the model runs them.
    """

    def count(block: nn.Module, given: tuple, made: Any) -> None:
        ran.append(None)
        if len(ran) == blocks:
            raise _Reached([leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)])

    handles = [block.register_forward_hook(count) for block in blocks_of(net, in_lists=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden_states(model: Any, blocks: int, run: Callable[[], Any]) -> list[Tensor]:
    """The states after so many blocks: the picture's, and the text's where a block has both.

    Args:
        model: of the host.
        run: the model once, which ends there.
    Raises:
        LiDiTError: the model has fewer blocks.
    """
    ran: list[None] = []
    try:
        with _stopped(model.diffusion_model, blocks, ran):
            run()
    except _Reached as reached:
        return reached.states
    raise LiDiTError(
        f"blocks is {blocks} and {type(model).__name__} has {len(ran)}; expected no more, or 0 for "
        "the prediction"
    )


def states_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The mean squared error (), in squared root mean squares of each state that is wanted."""
    errors = []
    for ours, theirs in zip(found, wanted, strict=True):
        size = theirs.float().square().mean().sqrt().clamp(min=SMALLEST)
        errors.append(((ours.float() - theirs.float()) / size).square().mean())
    return sum(errors[1:], errors[0]) / len(errors)
