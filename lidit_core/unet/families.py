"""The U-Nets that an adapter is made for: SD1.5, SDXL, and small ones that are built alike.

Two layouts name the same tensors: LDM's (`input_blocks.1.0.…`), which ComfyUI and most files
have, and diffusers' (`down_blocks.0.resnets.0.…`). `unet_shape` reads either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..errors import LiDiTError


@dataclass(frozen=True)
class UNetShape:
    """A U-Net whose blocks of one level are alike, downwards and upwards."""

    model_channels: int
    channel_mult: tuple[int, ...]  # by level, as the following two
    num_res_blocks: tuple[int, ...]  # downwards; one more upwards
    transformer_depth: tuple[int, ...]  # transformer blocks after each ResBlock
    transformer_depth_middle: int
    context_width: int  # of the text states in cross-attention
    use_linear: bool = False  # projections around a transformer; 1x1 convolutions otherwise
    adm: int = 0  # width of the vector of pooled text, size and crop; 0 = there is none
    num_heads: int = 0  # of every attention layer; 0 = each has as many as have `head_width`
    head_width: int = 0
    in_channels: int = 4
    out_channels: int = 4

    def __post_init__(self) -> None:
        if bool(self.num_heads) == bool(self.head_width):
            raise LiDiTError(
                f"a U-Net has num_heads={self.num_heads} and head_width={self.head_width}; "
                "expected one of them, and 0 for the other"
            )

    @property
    def family(self) -> str:
        """ "sd15" or "sdxl" whatever channels go in and out, "small" for any other."""
        blocks = replace(self, in_channels=4, out_channels=4)
        return next((name for name, known in FAMILIES.items() if known == blocks), "small")

    @property
    def levels(self) -> range:
        return range(len(self.channel_mult))

    def width(self, level: int) -> int:
        return self.model_channels * self.channel_mult[level]

    def heads(self, level: int) -> int:
        return self.num_heads or self.width(level) // self.head_width

    def depth(self, block: UNetBlock) -> int:
        """Transformer blocks that follow its ResBlock; 0 = none."""
        is_middle = block.key[0] == "middle"
        return self.transformer_depth_middle if is_middle else self.transformer_depth[block.level]


FAMILIES = {
    "sd15": UNetShape(320, (1, 2, 4, 4), (2, 2, 2, 2), (1, 1, 1, 0), 1, 768, num_heads=8),
    "sdxl": UNetShape(320, (1, 2, 4), (2, 2, 2), (0, 2, 10), 10, 2048, True, 2816, head_width=64),
}


class Names(NamedTuple):
    """The names that the two layouts give one module."""

    ldm: str
    diffusers: str


@dataclass(frozen=True)
class UNetBlock:
    """A ResBlock and the SpatialTransformer that follows it, if one does, by their names."""

    key: tuple[str, int]  # the host's transformer_options["block"]
    level: int
    resnet: Names
    attention: Names


def blocks(num_res_blocks: Sequence[int]) -> tuple[UNetBlock, ...]:
    """The blocks in order of execution; of the middle's two, the one before its transformer."""
    levels = list(enumerate(num_res_blocks))
    middle = UNetBlock(
        key=("middle", 0),
        level=len(levels) - 1,
        resnet=Names("middle_block.0", "mid_block.resnets.0"),
        attention=Names("middle_block.1", "mid_block.attentions.0"),
    )
    upwards = [(level, number + 1) for level, number in reversed(levels)]
    down = _side("input", "down_blocks", levels, first=1, gap=1)
    return (*down, middle, *_side("output", "up_blocks", upwards, first=0, gap=0))


def _side(
    side: str, stages: str, levels: Sequence[tuple[int, int]], first: int, gap: int
) -> Iterator[UNetBlock]:
    """One side of the U, by level and its number of ResBlocks.

    Args:
        first: the host's number of the first block; a convolution is before it, downwards.
        gap: the host's blocks between two levels; downwards, the downsampler is one.
    """
    index = first
    for stage, (level, number) in enumerate(levels):
        for i in range(number):
            ldm, diffusers = f"{side}_blocks.{index}", f"{stages}.{stage}"
            resnet = Names(f"{ldm}.0", f"{diffusers}.resnets.{i}")
            attention = Names(f"{ldm}.1", f"{diffusers}.attentions.{i}")
            yield UNetBlock((side, index), level, resnet, attention)
            index += 1
        index += gap


@dataclass(frozen=True)
class CrossAttentionLayer:
    """A transformer block, whose queries are of the picture and meet the text states."""

    name: str  # before its tensors in LDM's layout: "input_blocks.1.1.transformer_blocks.0"
    block: tuple[str, int]  # the host's transformer_options["block"]
    index: int  # the host's transformer_options["block_index"], within its SpatialTransformer
    width: int  # of the queries
    heads: int
    diffusers: str  # the module: "down_blocks.0.attentions.0.transformer_blocks.0"


def cross_attention_layers(shape: UNetShape) -> tuple[CrossAttentionLayer, ...]:
    """The layers in order of execution; SD1.5 has 16, SDXL 70."""
    return tuple(
        CrossAttentionLayer(
            name=f"{block.attention.ldm}.transformer_blocks.{index}",
            block=block.key,
            index=index,
            width=shape.width(block.level),
            heads=shape.heads(block.level),
            diffusers=f"{block.attention.diffusers}.transformer_blocks.{index}",
        )
        for block in blocks(shape.num_res_blocks)
        for index in range(shape.depth(block))
    )


def host_config(shape: UNetShape) -> dict[str, Any]:
    """The keywords with which the host's UNetModel is built."""
    levels = list(zip(shape.transformer_depth, shape.num_res_blocks, strict=True))
    return {
        "image_size": 32,  # not used by the host
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "model_channels": shape.model_channels,
        "channel_mult": list(shape.channel_mult),
        "num_res_blocks": list(shape.num_res_blocks),
        "transformer_depth": [depth for depth, number in levels for _ in range(number)],
        "transformer_depth_middle": shape.transformer_depth_middle,
        "transformer_depth_output": [depth for depth, number in levels for _ in range(number + 1)],
        "context_dim": shape.context_width,
        "num_heads": shape.num_heads or -1,
        "num_head_channels": shape.head_width or -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": shape.use_linear,
        "num_classes": "sequential" if shape.adm else None,
        "adm_in_channels": shape.adm or None,
        "use_checkpoint": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "legacy": False,
    }
