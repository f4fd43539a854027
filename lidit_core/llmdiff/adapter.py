"""The adapter in the U-Net's cross-attention (Dong et al. 2024, arXiv 2502.04412):

    f = a1 e^b1 attn(τ̂q(x), τ̂k(φ(c)), τ̂v(φ(c))) + a2 e^b2 attn(τq(x), τk(c), τv(c))

with the checkpoint's own projections τ̂ frozen, the added ones τ, and c the LLM's reading of the
prompt by Langevin dynamics, or as a control (ours) the LLM's last state. In mode ``replace`` c
alone conditions both terms, as in the paper; in mode ``add`` (ours) the first term is the
checkpoint's own, untouched.

Shapes: B samples, K tokens, W the tokens' width, N image tokens, D a layer's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import LiDiTError
from ..model.attention import AttentionFunction, key_bias, scaled_dot_product
from ..model.branch import masked_mean
from ..model.config import RefinerConfig
from ..model.layers import TimestepEmbedder, rms_norm
from ..model.lists import ListOf
from ..model.refiners import LinguisticTokenRefiner
from ..text.spec import LLMSpec
from ..text.states import LLMStates, without_instruction
from .config import LAST, AdaptedLayer, AdapterConfig, TokenRefiner
from .langevin import LangevinEncoding

GATES = ("a1", "b1", "a2", "b2")  # a layer's scalars
GATE_WIDTH = 64  # of the map from the timestep to the gates


@dataclass(frozen=True, eq=False)
class AdapterText:
    """What the added path reads of a batch's prompts."""

    tokens: Tensor  # (B, K, W): c, or c refined
    seen: Tensor  # (B, K) bool, False = padding
    gates: Tensor | None = None  # (B, layers): added to b2
    all_seen: bool = False  # every token is known to be seen

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        return key_bias(self.seen, dtype, self.all_seen)

    def present(self, dtype: torch.dtype) -> Tensor:
        """Whether each sample has a token: (B, 1, 1), 1 or 0."""
        return self.seen.any(dim=1).to(dtype)[:, None, None]


class AddedAttention(nn.Module):
    """The second term for one cross-attention layer, and the gates of both."""

    a1: nn.Parameter
    b1: nn.Parameter
    a2: nn.Parameter
    b2: nn.Parameter

    def __init__(
        self, layer: AdaptedLayer, token_width: int, operations=nn, dtype=None, device=None
    ) -> None:
        super().__init__()
        self.heads = layer.heads
        width, bare = layer.width, {"dtype": dtype, "device": device}
        self.q = operations.Linear(width, width, bias=False, **bare)
        self.k = operations.Linear(token_width, width, **bare)  # biases: c is not centred
        self.v = operations.Linear(token_width, width, **bare)
        for name in GATES:  # (1,) each: what has no dimension cannot be divided over processes
            self.register_parameter(name, nn.Parameter(torch.zeros(1, dtype=dtype, device=device)))

    def forward(
        self, x: Tensor, text: AdapterText, index: int, attention: AttentionFunction
    ) -> Tensor:
        """Read x (B, N, D), as the layer's own query sees it: (B, N, D) before its output map."""
        k, v = self.k(text.tokens).to(x.dtype), self.v(text.tokens).to(x.dtype)
        added = attention(self.q(x), k, v, self.heads, mask=text.bias(x.dtype))
        exponent = self.b2 if text.gates is None else self.b2 + text.gates[:, index, None, None]
        gate = (self.a2 * exponent.exp()).to(added)
        return added * (gate * text.present(x.dtype))

    def base_gate(self) -> Tensor:
        """Compute a1 e^b1, (1,), by which mode ``replace`` scales the checkpoint's own path."""
        return self.a1 * self.b1.exp()


class LLMDiffAdapter(nn.Module):
    """All that is trained: the text encoding, φ, and a path for each cross-attention layer."""

    def __init__(self, config: AdapterConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        llm, bare = config.llm.width, {"dtype": dtype, "device": device}
        self.config = config
        self.langevin = None
        if config.form != LAST:
            self.langevin = LangevinEncoding(config.blocks, llm, config.form, **layer)
        self.norm = rms_norm(llm, **layer)
        if config.refiner:
            self.refiner = _refiner(config.llm, config.refiner, layer)
        if "replace" in config.modes:
            self.to_context = operations.Linear(config.token_width, config.context_width, **bare)
        if "replace" in config.modes and config.pooled_width:
            self.to_pooled = operations.Linear(config.token_width, config.pooled_width, **bare)
        if config.timestep_gates:
            self.gate_time = TimestepEmbedder(GATE_WIDTH, **layer)
            self.gates = operations.Linear(GATE_WIDTH, len(config.layers), **bare)
        self.layers = ListOf(
            AddedAttention(size, config.token_width, **layer) for size in config.layers
        )
        self.index = {size.name: number for number, size in enumerate(config.layers)}

    @property
    def changes_with_time(self) -> bool:
        """Whether tokens or gates depend on the timestep."""
        return bool(self.config.refiner or self.config.timestep_gates)

    def read(
        self,
        states: LLMStates,
        t: Tensor,
        attention: AttentionFunction = scaled_dot_product,
        generator: torch.Generator | None = None,
        noisy: bool = False,
    ) -> AdapterText:
        """Tokens of the prompts; the instruction is dropped last.

        Args:
            states: of block "differences", (B, L, (T + 1) · C), or for the form "last" of block -1,
                (B, L, C).
            t: (B,) in [0, 1000].
            noisy: with the Langevin noise, as in training; from ``generator`` where it is given.
                The form "last" has none.
        """
        self._check(states)
        c = self._encoding(states.hidden, generator, noisy)
        if self.config.refiner:
            c = self.refiner(states.with_hidden(c), t, c.dtype, attention).tokens
        gates = None
        if self.config.timestep_gates:
            gates = self.gates(self.gate_time(t, c.dtype))
        left = without_instruction(c, states)
        return AdapterText(left.tokens, left.kept, gates, left.all_kept)

    def _encoding(self, hidden: Tensor, generator: torch.Generator | None, noisy: bool) -> Tensor:
        """c (B, L, C), normalised: a last state's numbers exceed what half precision holds."""
        if self.langevin is None:
            return self.norm(hidden.float()).to(self.norm.weight.dtype)
        return self.norm(self.langevin(hidden, generator, noisy))

    def context(self, text: AdapterText) -> Tensor:
        """φ(c), (B, K, context width): what mode ``replace`` gives the checkpoint to read."""
        self.check_mode("replace")
        return self.to_context(text.tokens) * text.seen[..., None].to(text.tokens)

    def pooled(self, text: AdapterText) -> Tensor:
        """The vector (B, pooled width) that mode ``replace`` gives SDXL for its pooled text."""
        self.check_mode("replace")
        return self.to_pooled(masked_mean(text.tokens, text.seen))

    def check_mode(self, mode: str) -> None:
        """Raise unless this adapter was trained in a mode."""
        if mode not in self.config.modes:
            raise LiDiTError(
                f"mode {mode!r} was asked for, and this adapter was trained for "
                f"{' and '.join(self.config.modes)}; choose that"
            )

    def _check(self, states: LLMStates) -> None:
        config, llm = self.config, self.config.llm
        if states.width != config.states_width:
            raise LiDiTError(
                f"the LLM's states are {states.width} wide, and this adapter was trained on "
                f"{llm.name} with {config.states_width} (form {config.form}, {config.blocks} "
                f"blocks of {llm.width}); load that LLM with layer {config.layer!r}"
            )

    def initialise(self) -> LLMDiffAdapter:
        """Start as the base model: a1 = 1 and a2 = 0, so that mode ``add`` changes nothing."""
        with torch.no_grad():
            if self.langevin is not None:
                self.langevin.reset()
            for layer in self.layers:
                layer.a1.fill_(1)
                for gate in (layer.b1, layer.a2, layer.b2):
                    gate.zero_()
            if self.config.timestep_gates:
                self.gates.weight.zero_()
                self.gates.bias.zero_()
        return self


def _refiner(read: LLMSpec, refiner: TokenRefiner, layer: dict) -> LinguisticTokenRefiner:
    """LI-DiT's refiner, which here reads c in place of an LLM's hidden states."""
    llm = LLMSpec(read.name, read.width)
    options = RefinerConfig(blocks=refiner.blocks)
    return LinguisticTokenRefiner(llm, refiner.width, refiner.heads, options, **layer)
