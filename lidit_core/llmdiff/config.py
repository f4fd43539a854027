"""What an adapter is: stored as JSON in the metadata of its file, which thereby describes itself.

"Paper" is Dong et al. 2024 (arXiv 2502.04412); the rest is ours, see the specification.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..errors import check, shown
from ..io.records import read_json
from ..text.spec import LLMSpec
from .langevin import LANGEVIN

FORMAT = 1  # of the JSON; raised when an old reader would misread a new file
MODES = ("replace", "add")
LAST = "last"  # the form without Langevin dynamics: c is the state after the last block
FORMS = (*LANGEVIN, LAST)


def block_of(form: str) -> int | str:
    """What a form reads of an LLM, see `load_llm`: its last block, or every block's differences."""
    return -1 if form == LAST else "differences"


@dataclass(frozen=True)
class AdaptedLayer:
    """One cross-attention layer of the U-Net."""

    name: str  # of its transformer block in the LDM layout: input_blocks.1.1.transformer_blocks.0
    width: int  # of the image features
    heads: int

    def __post_init__(self) -> None:
        check(
            self.heads > 0 < self.width and self.width % self.heads == 0,
            f"the adapter's layer {self.name} has width={self.width} and heads={self.heads}; "
            "expected a width that its heads divide",
        )


@dataclass(frozen=True)
class TokenRefiner:
    """LI-DiT's linguistic token refiner in front of the adapter (beyond the paper)."""

    blocks: int = 2  # of the refiner
    width: int = 768  # of the tokens that come out of it
    heads: int = 12  # of its attention; they divide the width

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "heads"):
            value = getattr(self, name)
            check(value > 0, f"the adapter's refiner has {name}={value}; expected 1 or more")
        check(
            self.width % self.heads == 0,
            f"the adapter's refiner has width={self.width} and heads={self.heads}; expected a "
            "width that its heads divide",
        )


@dataclass(frozen=True)
class AdapterConfig:
    """The U-Net and the LLM that an adapter joins, and the form in which it does."""

    family: str  # of lidit_core.unet.families: "sd15", "sdxl" or "small"
    layers: tuple[AdaptedLayer, ...]  # in order of execution
    context_width: int  # of the U-Net's own text: 768 or 2048
    llm: LLMSpec  # read at block "differences", or for the form "last" at block -1
    blocks: int  # T, of the LLM
    pooled_width: int = 0  # of SDXL's pooled text, 1280; 0 = none
    modes: tuple[str, ...] = MODES  # that it was trained in
    form: str = "direct"  # of the text encoding c, or "consecutive", or "last"
    refiner: TokenRefiner | None = None
    timestep_gates: bool = False  # b2 depends on the timestep (beyond the paper)

    def __post_init__(self) -> None:
        check(bool(self.layers), "the adapter has no layers; expected one or more")
        for name in ("context_width", "blocks"):
            value = getattr(self, name)
            check(value > 0, f"the adapter has {name}={value}; expected 1 or more")
        pooled = self.pooled_width
        check(pooled >= 0, f"the adapter has pooled_width={pooled}; expected 0 (none) or more")
        check(
            bool(self.modes) and set(self.modes) <= set(MODES),
            f"the adapter has modes {shown(list(self.modes))}; expected some of {', '.join(MODES)}",
        )
        check(
            self.form in FORMS,
            f"the adapter has form={shown(self.form)}; expected one of {', '.join(FORMS)}",
        )
        check(
            self.llm.block == block_of(self.form),
            f"the adapter's LLM is read at block {shown(self.llm.block)}; expected "
            f"{shown(block_of(self.form))} for form={shown(self.form)}",
        )

    @property
    def states_width(self) -> int:
        """Numbers that the LLM gives for a token: one state, or its embedding and T differences."""
        return self.llm.width * (1 if self.form == LAST else self.blocks + 1)

    @property
    def layer(self) -> str:
        """The layer that the LLM loader needs."""
        return "-1" if self.form == LAST else "all"

    @property
    def token_width(self) -> int:
        """Numbers in a token that the added projections read."""
        return self.refiner.width if self.refiner else self.llm.width

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> AdapterConfig:
        return read_json(cls, text, "adapter", "the adapter's configuration", FORMAT)
