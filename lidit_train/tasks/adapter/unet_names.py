"""Every tensor of a U-Net in LDM's layout and what diffusers calls it, and its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from lidit_core.errors import LiDiTError
from lidit_core.unet.families import Names, UNetBlock, UNetShape, blocks

ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
ADM = {"label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}
SKIP = Names("skip_connection", "conv_shortcut")  # of a ResBlock whose width changes
TRANSFORMER = ("norm", "proj_in", "proj_out")  # as the next, the same in both layouts
TRANSFORMER_BLOCK = (
    *(f"attn{i}.{layer}" for i in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    *("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"),
)
WITHOUT_BIAS = ("to_q", "to_k", "to_v")
SIZE_WIDTH = 256  # of each of SDXL's six numbers of size and crop, in the vector `adm`


def names(shape: UNetShape) -> dict[str, str]:
    """Diffusers' name of every tensor by LDM's."""
    return {
        f"{module.ldm}.{kind}": f"{module.diffusers}.{kind}"
        for module in _modules(shape)
        for kind in (("weight",) if module.ldm.endswith(WITHOUT_BIAS) else ("weight", "bias"))
    }


def _modules(shape: UNetShape) -> Iterator[Names]:
    yield from (Names(*pair) for pair in (ENDS | ADM if shape.adm else ENDS).items())
    for (side, level), group in groupby(
        blocks(shape.num_res_blocks), lambda b: (b.key[0], b.level)
    ):
        of_level = list(group)
        for block in of_level:
            yield from _resnet(block.resnet)
            yield from _transformer(block.attention, shape.depth(block))
        yield from _skips(shape, of_level)
        yield from _level_end(shape, side, level, of_level[-1])


def _resnet(at: Names) -> Iterator[Names]:
    for ldm, diffusers in RESNET.items():
        yield Names(f"{at.ldm}.{ldm}", f"{at.diffusers}.{diffusers}")


def _transformer(at: Names, depth: int) -> Iterator[Names]:
    inner = [f"transformer_blocks.{i}.{name}" for i in range(depth) for name in TRANSFORMER_BLOCK]
    for name in (*TRANSFORMER, *inner) if depth else ():
        yield Names(f"{at.ldm}.{name}", f"{at.diffusers}.{name}")


def _skips(shape: UNetShape, of_level: list[UNetBlock]) -> Iterator[Names]:
    """The names of a level's skip layers: of every ResBlock upwards, of the first downwards."""
    (side, _), level = of_level[0].key, of_level[0].level
    if side == "input" and (level == 0 or shape.width(level) == shape.width(level - 1)):
        return
    changing = {"input": of_level[:1], "middle": [], "output": of_level}[side]
    for at in (block.resnet for block in changing):
        yield Names(f"{at.ldm}.{SKIP.ldm}", f"{at.diffusers}.{SKIP.diffusers}")


def _level_end(shape: UNetShape, side: str, level: int, last: UNetBlock) -> Iterator[Names]:
    """The resampler that ends a level, or the middle's second ResBlock."""
    index, stage = last.key[1], last.resnet.diffusers.partition(".resnets")[0]
    if side == "middle":
        yield from _resnet(Names("middle_block.2", "mid_block.resnets.1"))
    elif side == "input" and level != shape.levels[-1]:
        yield Names(f"input_blocks.{index + 1}.0.op", f"{stage}.downsamplers.0.conv")
    elif side == "output" and level > 0:
        place = 2 if shape.depth(last) else 1
        yield Names(f"output_blocks.{index}.{place}.conv", f"{stage}.upsamplers.0.conv")


def diffusers_config(shape: UNetShape) -> dict[str, Any]:
    """The keywords of diffusers' UNet2DConditionModel."""
    *depths, last = shape.transformer_depth
    if last not in (0, shape.transformer_depth_middle):
        raise LiDiTError(
            f"the U-Net's last level has transformers of depth {last} and its middle block of "
            f"{shape.transformer_depth_middle}; expected the same of both, as diffusers builds them"
        )
    depths.append(shape.transformer_depth_middle)
    kinds = ["CrossAttn" if depth else "" for depth in shape.transformer_depth]
    sizes = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_WIDTH,
        "projection_class_embeddings_input_dim": shape.adm,
    }
    return {
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "block_out_channels": [shape.width(level) for level in shape.levels],
        "layers_per_block": list(shape.num_res_blocks),
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "cross_attention_dim": shape.context_width,
        "attention_head_dim": [shape.heads(level) for level in shape.levels],  # their number
        "use_linear_projection": shape.use_linear,
        **(sizes if shape.adm else {}),
    }
