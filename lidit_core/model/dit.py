"""LI-DiT (arXiv 2406.11831, Sec. 3.3 and Figure 5): a cross-attention diffusion transformer.

Shapes: B samples, N image tokens (H/p · W/p), K text tokens, D the width, p the patch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import LiDiTError, shown
from ..text.states import LLMStates
from .attention import AttentionFunction, scaled_dot_product
from .config import LatentFormat, LiDiTConfig
from .layers import (
    GELU,
    CrossAttention,
    Modulation,
    SelfAttention,
    TimestepEmbedder,
    feed_forward,
    modulate,
    plain_norm,
)
from .lists import ListOf
from .text_side import TEXT_AS_CONFIGURED, TextContext, TextOptions, TextSide


class PositionResBlock(nn.Module):
    """A convolutional ResBlock *is* the position embedding (paper); there is no other.

    Ours: two 3x3 convolutions at full width. The zero padding at the border is the only
    absolute cue, so a batch never mixes picture sizes by padding; a token knows where it is if
    the border is at most ``2 * dilation`` tokens away.
    """

    def __init__(
        self, width: int, dilation: int = 1, operations=nn, dtype=None, device=None
    ) -> None:
        super().__init__()
        layer = {"padding": dilation, "dilation": dilation, "dtype": dtype, "device": device}
        self.conv1 = operations.Conv2d(width, width, 3, **layer)
        self.silu = nn.SiLU()
        self.conv2 = operations.Conv2d(width, width, 3, **layer)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.silu(self.conv1(x)))  # (B, D, H/p, W/p)


Kind = TypeVar("Kind", bound=nn.Module)
RunBlock = Callable[..., Tensor]  # (index, block, x, c, text, attention) -> x


class LiDiTBlock(nn.Module):
    """Self-attention, cross-attention to the text, FFN; each with shift, scale and gate."""

    def __init__(self, width: int, heads: int, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.self_norm = plain_norm(width, **layer)
        self.self_attn = SelfAttention(width, heads, **layer)
        self.cross_norm = plain_norm(width, **layer)
        self.cross_attn = CrossAttention(width, heads, **layer)
        self.mlp_norm = plain_norm(width, **layer)
        self.mlp = feed_forward(width, GELU(), **layer)
        self.modulation = Modulation(width, 9, **layer)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        text: TextContext,
        attention: AttentionFunction,
        text_attention: AttentionFunction | None = None,
    ) -> Tensor:
        """Transform x (B, N, D) by c (B, D); text_attention: for the text alone, if another."""
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = self.modulation(c)
        if text.present is not None:
            gate2 = gate2 * text.present
        h = self.self_attn(modulate(self.self_norm(x), shift1, scale1), attention)
        x = torch.addcmul(x, gate1, h)
        query = modulate(self.cross_norm(x), shift2, scale2)
        read = self.cross_attn(query, text.tokens, text_attention or attention, text.bias)
        x = torch.addcmul(x, gate2, read)
        return torch.addcmul(x, gate3, self.mlp(modulate(self.mlp_norm(x), shift3, scale3)))


class FinalLayer(nn.Module):
    """The final layer of DiT: a modulated LayerNorm and a linear map to each patch's pixels."""

    def __init__(self, width: int, n_out: int, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.norm = plain_norm(width, **layer)
        self.linear = operations.Linear(width, n_out, dtype=dtype, device=device)
        self.modulation = Modulation(width, 2, **layer)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(c)
        return self.linear(modulate(self.norm(x), shift, scale))  # (B, N, p·p·channels)


def run_block(index: int, block: LiDiTBlock, x: Tensor, c: Tensor, text: TextContext, attention):
    """Run one block; a host passes its own in its place to replace or skip some."""
    return block(x, c, text, attention)


def check_latents(x: Tensor, latent: LatentFormat) -> None:
    """Raise unless these are latents that a model of this format paints in, of any precision."""
    side, channels = latent.downsampling, latent.channels
    if not isinstance(x, Tensor):
        raise LiDiTError(
            f"latents are {shown(x)}; expected a tensor of shape (B, {channels}, H, W)"
        )
    if not (x.ndim == 4 and x.shape[1] == channels and x.numel() > 0):
        raise LiDiTError(
            f"latents have shape {tuple(x.shape)}; this LI-DiT paints in {latent.name} with "
            f"{channels} channels: use its own VAE or an empty latent of (B, {channels}, height / "
            f"{side}, width / {side})"
        )


class LiDiT(nn.Module):
    """The whole model: text side, patches with their position ResBlock, blocks, final layer.

    Args:
        config: sizes and switches.
        operations: the set of layers to build from, ``torch.nn`` or a host's.
    """

    def __init__(self, config: LiDiTConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.config = config
        width, heads, p = config.width, config.heads, config.patch
        self.channels = config.latent.channels
        self.text_side = TextSide(
            config.llms, width, heads, config.refiner, **layer, depth=config.depth
        )
        self.patch_embedder = operations.Conv2d(
            self.channels, width, p, stride=p, dtype=dtype, device=device
        )
        self.position = PositionResBlock(width, **layer)
        wide = config.position_dilation
        self.wide_position = PositionResBlock(width, wide, **layer) if wide else nn.Identity()
        self.t_embedder = TimestepEmbedder(width, **layer)
        self.pooled_text = operations.Linear(width, width, dtype=dtype, device=device)
        self.blocks = ListOf(LiDiTBlock(width, heads, **layer) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, p * p * self.channels, **layer)

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in, and wants its latents in."""
        return self.patch_embedder.weight.dtype

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Mapping[int, LLMStates],
        options: TextOptions = TEXT_AS_CONFIGURED,
        attention: AttentionFunction = scaled_dot_product,
        run_block: RunBlock = run_block,
    ) -> Tensor:
        """Predict the objective's target for noisy latents.

        Args:
            x: (B, channels, H, W), normalised latents; odd sides are padded and cut again.
            t: (B,) timestep in [0, 1000]; 1000 = noise.
            text: by branch, the states of that branch's LLM, B rows each; absent = left out.
        Returns:
            (B, channels, H, W)
        """
        check_latents(x, self.config.latent)
        self._check(x, t, options)
        height, width = x.shape[-2:]
        context = self.text_side(text, t, x.dtype, attention, options)
        c = self.t_embedder(t, x.dtype) + self.pooled_text(context.pooled)  # (B, D)
        x = self.position(self.patch_embedder(self._pad(x)))  # (B, D, H/p, W/p)
        x = self.wide_position(x)
        rows = x.shape[-2]
        x = rearrange(x, "b d h w -> b (h w) d").contiguous()  # every norm would copy it
        for index, block in enumerate(self.blocks):
            x = run_block(index, block, x, c, context.of_block(index), attention)  # (B, N, D)
        return self._unpatchify(self.final_layer(x, c), rows)[..., :height, :width]

    def _pad(self, x: Tensor) -> Tensor:
        """Repeat the last row and column where a side is no multiple of the patch."""
        p = self.config.patch
        extra = -x.shape[-1] % p, -x.shape[-2] % p
        return F.pad(x, (0, extra[0], 0, extra[1]), mode="replicate") if any(extra) else x

    def _unpatchify(self, x: Tensor, rows: int) -> Tensor:
        """Put patches back in place: (B, N, p·p·channels) -> (B, channels, rows·p, columns·p)."""
        p = self.config.patch
        return rearrange(x, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=p, q=p)

    def _check(self, x: Tensor, t: Tensor, options: TextOptions) -> None:
        """Raise unless latents are what the weights compute with, and all else fits them.

        Sentences are made where they are raised: a compiler could not follow their making.
        """
        self._check_dtype(x)
        if not (isinstance(t, Tensor) and t.shape == x.shape[:1]):
            came = tuple(t.shape) if isinstance(t, Tensor) else shown(t)
            raise LiDiTError(
                f"t is {came}; expected a timestep in [0, 1000] for each latent: "
                f"torch.full(({len(x)},), t)"
            )
        if not isinstance(options, TextOptions):
            raise LiDiTError(
                f"options is {shown(options)}; expected TextOptions, or none for what is configured"
            )

    def _check_dtype(self, x: Tensor) -> None:
        """Refuse latents of another kind than the weights, unless something casts them.

        A host's layers cast their weights, and autocast both.
        """
        plain = type(self.patch_embedder) is nn.Conv2d
        if not plain or x.dtype == self.dtype or torch.is_autocast_enabled(x.device.type):
            return
        raise LiDiTError(
            f"latents are {x.dtype} and this LI-DiT computes in {self.dtype}; expected the same: "
            "give it latents.to(model.dtype)"
        )

    @torch.no_grad()
    def initialise(self) -> "LiDiT":
        """Weights before training; gates and modulations start at zero (paper)."""
        for layer in self._all(nn.Linear, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.flatten(1))
            assert layer.bias is not None  # none is built without
            nn.init.zeros_(layer.bias)
        for modulation in self._all(Modulation):  # zero-out adaptive gates and modulations
            nn.init.zeros_(modulation.linear.weight)
        for embedder in self._all(TimestepEmbedder):
            nn.init.normal_(embedder.in_layer.weight, std=0.02)
            nn.init.normal_(embedder.out_layer.weight, std=0.02)
        for refiner in self.text_side.linguistic:
            refiner.initialise_tables()
        if isinstance(self.wide_position, PositionResBlock):  # weights without it may be put below
            nn.init.zeros_(self.wide_position.conv2.weight)
        nn.init.zeros_(self.final_layer.linear.weight)  # zero-out the output
        return self

    def _all(self, *kinds: type[Kind]) -> list[Kind]:
        return [module for module in self.modules() if isinstance(module, kinds)]
