"""Token routing in a LI-DiT (TREAD, arXiv 2501.04765): image tokens that go around blocks.

Such a block has no position of its own, as the patches have theirs before the first; so some of the
tokens are a smaller sequence, and nothing else changes.
"""

from __future__ import annotations

from torch import Tensor

from lidit_core.errors import check
from lidit_core.model.config import LiDiTConfig

from ...input_spec import InputSpec
from ...recipe import Recipe
from ...recipe.routing import LEAST


class Routed:
    """One forward pass in which some tokens leave before some blocks and come back behind them.

    Args:
        blocks: that they go around.
        kept: (B, K) the places of the tokens that stay.
    """

    def __init__(self, blocks: range, kept: Tensor) -> None:
        self.blocks, self.kept = blocks, kept
        self.all: Tensor | None = None  # (B, N, D), while some are away

    def before(self, index: int, x: Tensor) -> Tensor:
        """What a block reads: x (B, N, D), or the tokens that stay (B, K, D)."""
        if index != self.blocks.start:
            return x
        self.all = x
        return x.gather(1, self._places(x))

    def after(self, index: int, x: Tensor) -> Tensor:
        """What follows a block: x, or all tokens, those that were away as they left."""
        if self.all is None or index != self.blocks.stop - 1:
            return x
        whole, self.all = self.all, None
        return whole.to(x.dtype).scatter(1, self._places(x), x)

    def _places(self, x: Tensor) -> Tensor:
        return self.kept[..., None].expand(-1, -1, x.shape[2])


def check_routing(recipe: Recipe, config: LiDiTConfig, spec: InputSpec) -> None:
    """Refuse a routing for which the model has no blocks, or the pictures too few tokens."""
    routing = recipe.routing
    if routing is None:
        return
    blocks = routing.blocks(config.depth)
    check(
        0 <= blocks.start < blocks.stop <= config.depth,
        f"the recipe's routing leads tokens around blocks first={routing.first} to "
        f"last={routing.last}, and the model has {config.depth}; expected some of 0 to "
        f"{config.depth - 1} in their order",
    )
    side = min(stage.resolution or spec.native_size for stage in recipe.stages)
    tokens = (side // spec.grain) ** 2
    check(
        tokens >= LEAST,
        f"the recipe has routing, which is for {LEAST} image tokens and more, and a stage of "
        f"{side} pixels has {tokens}; leave routing out, or give every stage a resolution of "
        f"{int(LEAST**0.5) * spec.grain} or more",
    )
    for name in ("content", "alignment", "place"):
        if (lesson := getattr(recipe, name)) is not None:
            _check_read(name, lesson.block, blocks[:-1])


def _check_read(name: str, block: int, away: range) -> None:
    """Refuse to read a block behind which some tokens are away."""
    check(
        block not in away,
        f"the recipe's {name} reads block {block}, behind which routing has some tokens away; "
        f"expected another than {away.start} to {away.stop - 1}: change {name}.block",
    )
