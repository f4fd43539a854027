"""The host's U-Nets of SD1.5 and SDXL as an adapter sees them: their cross-attention layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, cast

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from ...lidit_core.errors import LiDiTError
from ...lidit_core.llmdiff.config import AdaptedLayer, AdapterConfig

BlockPlace = tuple[str, int, int]  # transformer_options' "block", and its "block_index"


class HostAttention(Protocol):
    """The host's CrossAttention, as far as it is read."""

    heads: int
    dim_head: int
    to_k: nn.Linear
    to_out: nn.Sequential


class HostTransformer(Protocol):
    """The host's BasicTransformerBlock, as far as it is read."""

    attn2: HostAttention | None


class FoundLayer(NamedTuple):
    """A transformer block with cross-attention."""

    place: BlockPlace
    layer: AdaptedLayer
    attention: HostAttention  # attn2: the checkpoint's own

    @property
    def context_width(self) -> int:
        return self.attention.to_k.in_features


def found_layers(unet: UNetModel) -> list[FoundLayer]:
    """Find all cross-attention layers, in order of execution."""
    middle = [] if unet.middle_block is None else [unet.middle_block]
    sides = {"input": unet.input_blocks, "middle": middle, "output": unet.output_blocks}
    return [
        layer
        for side, parts in sides.items()
        for number, part in enumerate(parts)
        for layer in _of_block(side, number, part)
    ]


def _of_block(side: str, number: int, block: nn.Sequential) -> Iterator[FoundLayer]:
    before = "middle_block" if side == "middle" else f"{side}_blocks.{number}"
    for i, part in enumerate(block):
        if not isinstance(part, SpatialTransformer):
            continue
        transformers = cast("Iterable[HostTransformer]", part.transformer_blocks)
        for index, transformer in enumerate(transformers):
            own = transformer.attn2
            if own is not None:
                name = f"{before}.{i}.transformer_blocks.{index}"
                layer = AdaptedLayer(name, own.heads * own.dim_head, own.heads)
                yield FoundLayer((side, number, index), layer, own)


def check_fits(config: AdapterConfig, model) -> None:
    """Raise a LiDiTError unless the adapter was made for a U-Net like this MODEL's."""
    unet, kind = model.get_model_object("diffusion_model"), type(model.model).__name__
    if not isinstance(unet, UNetModel):
        raise LiDiTError(
            f"this model is {kind}, which has no U-Net, and the adapter is for {config.family}; "
            "connect a checkpoint of that family"
        )
    found = found_layers(unet)
    contexts = {layer.context_width for layer in found}
    fits = tuple(layer.layer for layer in found) == config.layers
    pooled = config.pooled_width <= model.model.adm_channels
    if not (fits and pooled and contexts == {config.context_width}):
        raise LiDiTError(
            f"the adapter is for {config.family}, {_told(config.layers, {config.context_width})}, "
            f"and this model is {kind} with {_told([f.layer for f in found], contexts)}; connect a "
            "checkpoint of that family, or choose an adapter for this one"
        )


def _told(layers, contexts: set[int]) -> str:
    widths = "/".join(map(str, sorted({layer.width for layer in layers})))
    texts = "/".join(map(str, sorted(contexts)))
    return f"{len(layers)} cross-attention layers of {widths} that read text {texts} wide"
