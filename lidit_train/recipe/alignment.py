"""Representation alignment: a block is to see in a picture what a vision encoder sees."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.errors import check

from ..ranges import in_range


@dataclass(frozen=True)
class Alignment:
    """REPA (Yu et al. 2024, arXiv 2410.06940), a loss beside the objective's.

    A map of one block's image tokens, which is no part of the model, is to point where the
    encoder's features of the clean picture point.
    """

    encoder: str = ""  # folder of a vision encoder that transformers reads: DINOv2, CLIP, SigLIP…
    weight: float = 0.5  # of one minus the mean cosine
    block: int = 3  # the transformer block whose output is read, from 0
    hidden: int = 2048  # width of the map, three linear layers
    spatial: bool = False  # a 3x3 convolution for the map, and features normalised over each
    # picture (Singh et al. 2025, arXiv 2512.10794)
    end: int = 0  # steps after which it stops (Wang et al. 2025, arXiv 2505.16792); 0 = never

    def __post_init__(self) -> None:
        check(
            bool(self.encoder),
            "the recipe's alignment has no encoder; expected the folder of a vision encoder",
        )
        check(
            self.weight > 0,
            f"the recipe's alignment has weight={self.weight}; expected above 0: leave alignment "
            "out for none",
        )
        in_range(self, "alignment", "hidden", low=1)
        in_range(self, "alignment", "end", low=0)
        check(
            not self.spatial or self.hidden == 2048,
            f"the recipe's alignment is spatial and has hidden={self.hidden}, which a single "
            "convolution has not; leave one of them out",
        )

    def stands(self, step: int) -> bool:
        """Whether a step, from 0, still has this loss."""
        return not self.end or step < self.end
