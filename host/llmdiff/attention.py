"""What an adapter does inside the U-Net: its paths, through patches that others' patches pass by.

Shapes: B rows, N image tokens, D a layer's width, M tokens of the checkpoint's own text, W theirs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attention import attend
from ..node_notes import note
from .adapter import Gates
from .conds import AddedText, MaskedText
from .sampling_texts import Use
from .unet import BlockPlace, HostAttention, found_layers


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the U-Net."""

    text: MaskedText
    own: dict[BlockPlace, HostAttention]  # the checkpoint's own attention layers
    replaced: Tensor | None  # (B, 1, 1) bool: rows whose own path reads φ(c); None where none does
    context_length: int  # M


class AddedPaths:
    """An adapter's added projections in every cross-attention layer of a U-Net."""

    def __init__(self, use: Use, gates: Gates) -> None:
        self.use, self.gates = use, gates
        self.query = f"{use.key}_query"
        self._places: dict[BlockPlace, int] = {}  # filled by the first call
        self._told = False

    def __deepcopy__(self, memo: dict) -> AddedPaths:
        """Give itself: older hosts copy a MODEL's patches with all that they hold, weights too."""
        return self

    def call(
        self,
        executor,
        x,
        timesteps=None,
        context: Tensor | None = None,
        y=None,
        control=None,
        transformer_options: dict = {},  # noqa: B006  (the host's own signature)
        **conditions,
    ):
        """Wrap a call of the U-Net (WrappersMP.DIFFUSION_MODEL)."""
        added = conditions.pop(self.use.key, None)
        if added is not None and any(added.present):
            assert context is not None  # a U-Net with cross-attention is always given one
            call = self._call(executor.class_obj, added, x, context)
            transformer_options = {**transformer_options, self.use.key: call}
        return executor(x, timesteps, context, y, control, transformer_options, **conditions)

    def _call(self, unet: nn.Module, added: AddedText, x: Tensor, context: Tensor) -> Call:
        found = found_layers(unet)
        if not self._places:
            self._places = {layer.place: i for i, layer in enumerate(found)}
        replaced = None
        if any(added.replaces):
            replaced = torch.tensor(added.replaces, device=x.device)[:, None, None]
        own = {layer.place: layer.attention for layer in found}
        return Call(added.masked(x.dtype), own, replaced, context.shape[1])

    def before(self, n: Tensor, context: Tensor, value: Tensor, options: dict):
        """Change a query (B, N, D), and its keys' and values' text (set_model_attn2_patch)."""
        call, place = options.get(self.use.key), _place(options)
        if call is None or place not in call.own:
            return n, context, value
        index = self._places[place]
        if index in self.gates.added:
            options[self.query] = n
        gate = self.gates.base[index]
        if call.replaced is not None and gate != 1 and len(value) == len(call.replaced):
            value = _scaled(value, call, gate)
        return n, context, value

    def after(self, n: Tensor, options: dict) -> Tensor:
        """Change a layer's output (B, N, D) (set_model_attn2_output_patch)."""
        call, query = options.get(self.use.key), options.pop(self.query, None)
        if call is None or query is None or not self._fits(n, query, call):
            return n
        place = _place(options)
        index = self._places[place]
        attention = functools.partial(attend, options=options)
        added = self.use.adapter.layers[index](query, call.text, index, attention)
        added = without_bias(call.own[place].to_out, added)
        return n + (added if self.use.strength == 1 else added * self.use.strength)

    def _fits(self, n: Tensor, query: Tensor, call: Call) -> bool:
        fits = n.shape == query.shape and len(n) == len(call.text.tokens)
        if not fits and not self._told:
            self._told = True
            ours = (len(call.text.tokens), *query.shape[1:])
            note(
                f"another pack's patch gives cross-attention {tuple(n.shape)} image tokens where "
                f"the LLMDiff adapter has {ours}, and the adapter leaves such layers alone; use "
                "one of the two"
            )
        return fits


def _place(options: dict) -> BlockPlace:
    return (*options["block"], options["block_index"])


def _scaled(value: Tensor, call: Call, gate: float) -> Tensor:
    """The text of the values with φ(c), and nothing that another patch has put in, scaled."""
    assert call.replaced is not None  # whoever calls has asked
    factor = torch.where(call.replaced, gate, 1.0).to(value.dtype)
    own, others = value[:, : call.context_length], value[:, call.context_length :]
    return torch.cat([own * factor, others], dim=1)


def without_bias(output: nn.Module, h: Tensor) -> Tensor:
    """The checkpoint's own output map, LoRAs included, of h (B, N, D) less its bias.

    The bias is what comes out of zeros, in the same call: weights may be on their way each time.
    """
    rows = h.flatten(0, 1)
    both = output(torch.cat([rows, rows.new_zeros(1, rows.shape[1])]))
    return (both[:-1] - both[-1:]).unflatten(0, h.shape[:2])
