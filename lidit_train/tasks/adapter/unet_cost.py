"""What a U-Net costs, counted while it runs on torch's meta device, where nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lidit_core.llmdiff.adapter import AdapterText, AddedAttention, LLMDiffAdapter
from lidit_core.unet.families import UNetShape, cross_attention_layers

from .target import pooled_width
from .unet import build_unet, cross_attention

if TYPE_CHECKING:
    from .unet import UNet2DConditionModel

META = torch.device("meta")


@dataclass(frozen=True)
class UNetCost:
    """Of one picture in one forward pass."""

    parameters: int  # of the U-Net
    flops: int  # two for a multiplication and addition
    kept: int  # bytes in float32 that the backward pass needs, weights left out


def unet_cost(
    shape: UNetShape, side: int, tokens: int, adapter: LLMDiffAdapter | None = None
) -> UNetCost:
    """Args:
    side: of the latents.
    tokens: of the text.
    adapter: on the meta device; its paths are counted with the U-Net's own.
    """
    unet = build_unet(shape, "meta").requires_grad_(False)
    _fuse_attention(unet, shape, tokens, adapter)
    inputs = _inputs(shape, side, tokens)
    kept: dict[int, int] = {}
    weights = [*unet.parameters(), *(adapter.parameters() if adapter else ())]
    own = {p.untyped_storage()._cdata for p in weights}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return x

    with FlopCounterMode(display=False) as counted:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            alive = unet(**inputs).sample  # held: storages are told apart by where they lie
    del alive
    numbers = sum(p.numel() for p in unet.parameters())
    return UNetCost(numbers, counted.get_total_flops(), sum(kept.values()))


class _Fused:
    """diffusers' attention by a fused kernel, which keeps no scores; with an adapter's path."""

    def __init__(
        self, added: AddedAttention | None = None, index: int = 0, text: AdapterText | None = None
    ) -> None:
        self.added, self.index, self.text = added, index, text

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_
    ) -> Tensor:
        x = hidden_states
        context = x if encoder_hidden_states is None else encoder_hidden_states
        f = _attention(attn.to_q(x), attn.to_k(context), attn.to_v(context), attn.heads)
        if self.added is not None:
            f = f + self.added(x, self.text, self.index, _attention)
        return attn.to_out[0](f)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The kernel by its name, for PyTorch chooses none that is fused for the meta device."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    made = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return made.transpose(1, 2).flatten(2)


class _EveryToken(AdapterText):
    """A text without padding, of which the meta device could not say that it has none."""

    def bias(self, dtype: torch.dtype) -> None:
        return None


def _fuse_attention(
    unet: UNet2DConditionModel, shape: UNetShape, tokens: int, adapter: LLMDiffAdapter | None
) -> None:
    unet.set_attn_processor(_Fused())
    if adapter is None:
        return
    read = torch.empty(1, tokens, adapter.config.token_width, requires_grad=True, device=META)
    text = _EveryToken(read, torch.ones(1, tokens, dtype=torch.bool, device=META))
    for index, place in enumerate(cross_attention_layers(shape)):
        attn = cross_attention(unet, place.diffusers)
        attn.set_processor(_Fused(adapter.layers[index], index, text))


def _inputs(shape: UNetShape, side: int, tokens: int) -> dict:
    """Of which only the text has a gradient, as the U-Net's first layers need keep nothing."""
    inputs: dict[str, Tensor | dict[str, Tensor]] = {
        "sample": torch.empty(1, shape.in_channels, side, side, device=META),
        "timestep": torch.empty(1, device=META),
        "encoder_hidden_states": torch.empty(
            1, tokens, shape.context_width, requires_grad=True, device=META
        ),
    }
    if shape.adm:
        pooled, sizes = (
            torch.empty(1, pooled_width(shape), device=META),
            torch.empty(1, 6, device=META),
        )
        inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
    return inputs
