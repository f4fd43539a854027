"""What a U-Net is, read off the names and shapes of its tensors; none of them is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypedDict

from ..errors import LiDiTError
from ..io.tensors import HOST_PREFIX, opened
from .families import FAMILIES, Names, UNetBlock, UNetShape, blocks

UNET_KEY = "unet"  # of a file's metadata: diffusers' configuration of the U-Net, as JSON
CONV_IN = Names("input_blocks.0.0.weight", "conv_in.weight")
CONV_OUT = Names("out.2.weight", "conv_out.weight")
ADM = Names("label_emb.0.0.weight", "add_embedding.linear_1.weight")
RESNET_OUT = {"ldm": ".out_layers.3.weight", "diffusers": ".conv2.weight"}
TEXT_KEYS = ".transformer_blocks.0.attn2.to_k.weight"  # of a SpatialTransformer
REFUSED = {  # by model_channels and context_width
    (320, 1024): "of Stable Diffusion 2",
    (384, 1280): "SDXL's refiner",
}


def read_shape(path: str | Path) -> UNetShape:
    """The shape of the U-Net in a file of LDM's layout, a whole checkpoint or a U-Net alone."""
    with opened(path) as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
        config = metadata_config(file.metadata() or {}, path)
    return unet_shape(without_prefix(shapes), config, what=f"the U-Net of {path}")


def without_prefix(by_name: Mapping[str, Any]) -> dict[str, Any]:
    """The U-Net's own tensors of a whole checkpoint, or all of a file that has no others."""
    prefixed = {k: v for k, v in by_name.items() if k.startswith(HOST_PREFIX)} or by_name
    return {k.removeprefix(HOST_PREFIX): v for k, v in prefixed.items()}


def metadata_config(metadata: Mapping[str, str], path: str | Path) -> dict[str, Any] | None:
    """diffusers' configuration, if the file's metadata holds it."""
    if UNET_KEY not in metadata:
        return None
    try:
        return dict(json.loads(metadata[UNET_KEY]))
    except (ValueError, TypeError) as error:
        raise LiDiTError(
            f"{path} has metadata '{UNET_KEY}' that is no JSON of diffusers' configuration "
            f"({error}); write the file again with lidit"
        ) from error


def unet_shape(
    shapes: Mapping[str, Sequence[int]],
    config: Mapping[str, Any] | None = None,
    layout: str = "ldm",
    what: str = "the U-Net",
) -> UNetShape:
    """Tell a U-Net's shape by the shapes of its tensors.

    Args:
        shapes: of its tensors, by name.
        config: fields of diffusers' configuration, of which `attention_head_dim` is read: the
            number of heads, of all levels or of each. SD1.5 and SDXL are known without it.
        layout: whose names these are, "ldm" or "diffusers".
        what: how a mistake's sentence calls it.
    """
    known = _known(_Tensors(shapes, layout, what))
    if config is not None:
        return UNetShape(**known, **_heads(config, known, what))
    for family in FAMILIES.values():
        shape = UNetShape(**known, num_heads=family.num_heads, head_width=family.head_width)
        if shape.family != "small":
            return shape
    raise LiDiTError(
        f"{what} is neither SD1.5's nor SDXL's (width {known['model_channels']}, text states of "
        f"width {known['context_width']}), and nothing tells its attention heads; give a file with "
        f"the metadata '{UNET_KEY}', which lidit writes, or a diffusers folder with its config.json"
    )


@dataclass(frozen=True)
class _Tensors:
    """The shapes of a U-Net's tensors, looked up by the names of both layouts."""

    shapes: Mapping[str, Sequence[int]]
    layout: str
    what: str

    def name(self, names: Names, within: str = "") -> str:
        return f"{getattr(names, self.layout)}{within}"

    def shape(self, names: Names, within: str = "") -> Sequence[int]:
        name = self.name(names, within)
        if name not in self.shapes:
            raise LiDiTError(
                f"{self.what} lacks {name}; expected the whole U-Net of SD1.5 or SDXL, or of one "
                "built alike"
            )
        return self.shapes[name]

    def counted(self, pattern: str) -> int:
        """How many names there are with 0, 1, 2 … in the place of {}."""
        return sum(1 for _ in takewhile(lambda i: pattern.format(i) in self.shapes, count()))

    def num_res_blocks(self) -> tuple[int, ...]:
        """How many ResBlocks each level has, downwards."""
        if self.layout == "ldm":
            return self._num_res_blocks_ldm()
        stages = self.counted("down_blocks.{}.resnets.0.conv1.weight")
        patterns = (f"down_blocks.{stage}.resnets.{{}}.conv1.weight" for stage in range(stages))
        return tuple(map(self.counted, patterns)) or (0,)

    def _num_res_blocks_ldm(self) -> tuple[int, ...]:
        numbers, i = [0], 0
        while True:
            i += 1
            if f"input_blocks.{i}.0.op.weight" in self.shapes:  # the downsampler ends a level
                numbers.append(0)
            elif f"input_blocks.{i}.0.in_layers.2.weight" in self.shapes:
                numbers[-1] += 1
            else:
                return tuple(numbers)

    def depth(self, block: UNetBlock) -> int:
        return self.counted(self.name(block.attention, ".transformer_blocks.{}.attn2.to_k.weight"))

    def level(self, of_level: Sequence[UNetBlock], model_channels: int) -> tuple[int, int]:
        """The channel multiplier and transformer depth of a level, equal in each of its blocks."""
        found = {
            (self.shape(block.resnet, RESNET_OUT[self.layout])[0], self.depth(block))
            for block in of_level
        }
        (width, depth), *others = sorted(found)
        if others or width % model_channels:
            raise LiDiTError(
                f"{self.what} has blocks of (width, transformer depth) {sorted(found)} in one "
                f"level; expected one multiple of {model_channels} and one depth, as in SD1.5 "
                "and SDXL, not a model distilled from them"
            )
        return width // model_channels, depth


def _known(tensors: _Tensors) -> dict[str, Any]:
    """The fields of a UNetShape that the tensors tell: all but the heads."""
    model_channels, in_channels = tensors.shape(CONV_IN)[:2]
    num_res_blocks = tensors.num_res_blocks()
    places = blocks(num_res_blocks)
    middle = next(block for block in places if block.key[0] == "middle")
    context_width = tensors.shape(middle.attention, TEXT_KEYS)[1]
    if (model_channels, context_width) in REFUSED:
        raise LiDiTError(
            f"{tensors.what} is {REFUSED[model_channels, context_width]}, for which no adapter "
            "is made; give SD1.5 or SDXL"
        )
    levels = [
        tensors.level([b for b in places if b.level == at and b is not middle], model_channels)
        for at in range(len(num_res_blocks))
    ]
    return {
        "model_channels": model_channels,
        "channel_mult": tuple(mult for mult, _ in levels),
        "num_res_blocks": num_res_blocks,
        "transformer_depth": tuple(depth for _, depth in levels),
        "transformer_depth_middle": tensors.depth(middle),
        "context_width": context_width,
        "use_linear": len(tensors.shape(middle.attention, ".proj_in.weight")) == 2,
        "adm": tensors.shape(ADM)[1] if tensors.name(ADM) in tensors.shapes else 0,
        "in_channels": in_channels,
        "out_channels": tensors.shape(CONV_OUT)[0],
    }


class _Heads(TypedDict, total=False):
    """One of a UNetShape's two fields that tell its attention heads."""

    num_heads: int
    head_width: int


def _heads(config: Mapping[str, Any], known: Mapping[str, Any], what: str) -> _Heads:
    """The fields of a UNetShape that the configuration tells; diffusers misnames the number."""
    given = config.get("attention_head_dim")
    widths = [known["model_channels"] * mult for mult in known["channel_mult"]]
    numbers = [given] * len(widths) if isinstance(given, int) else list(given or ())
    good = len(numbers) == len(widths) and all(isinstance(n, int) and n > 0 for n in numbers)
    if good and not any(width % n for width, n in zip(widths, numbers, strict=True)):
        if len(set(numbers)) == 1:
            return {"num_heads": numbers[0]}
        head_widths = {width // n for width, n in zip(widths, numbers, strict=True)}
        if len(head_widths) == 1:
            return {"head_width": head_widths.pop()}
    raise LiDiTError(
        f"{what} has the configuration attention_head_dim={given!r}; expected a number of heads "
        f"that divides the widths {widths}, or one for each that make all heads equally wide"
    )
