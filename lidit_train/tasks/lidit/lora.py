"""LoRA for LI-DiT (Hu et al. 2021, arXiv 2106.09685): low-rank changes of frozen linear layers.

The trained matrices live in a module of their own and reach the layers through forward hooks, so
that the model's weights keep their names and a checkpoint of it stays the base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lidit_core.checkpoints.lora import write_lora
from lidit_core.errors import LiDiTError
from lidit_core.model.config import LiDiTConfig

from ...recipe import Lora


class LowRank(nn.Module):
    """The change of one layer: alpha / rank · B A, zero at first."""

    def __init__(self, layer: nn.Linear, lora: Lora) -> None:
        super().__init__()
        device = layer.weight.device
        self.scale = lora.alpha / lora.rank
        self.A = nn.Parameter(torch.empty(lora.rank, layer.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(layer.out_features, lora.rank, device=device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as nn.Linear's own

    def hook(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """What the layer gives together with its change; float32 matrices, the input's dtype."""
        (x,) = inputs
        change = F.linear(F.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))
        return output + self.scale * change.to(output.dtype)


class LoraAdapter(nn.ModuleDict):
    """Every trained pair of matrices, by its layer's name with / for the dots.

    Put it into the module that is trained, beside the model; a hook needs no call of it. A deep
    copy of a model that has hooks has copies of the pairs too.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], lora: Lora) -> None:
        pairs = {name.replace(".", "/"): LowRank(x, lora) for name, x in layers.items()}
        super().__init__(pairs)
        self.lora = lora
        self.handles = [
            layer.register_forward_hook(pair.hook)
            for layer, pair in zip(layers.values(), pairs.values())
        ]

    def remove(self) -> None:
        """Take the change off the model again."""
        for handle in self.handles:
            handle.remove()


def add_lora(model: nn.Module, lora: Lora) -> LoraAdapter:
    """Freeze the model and put a LoRA on it; before torch.compile, which keeps what it finds.

    Raises:
        LiDiTError: the recipe names a part without linear layers.
    """
    layers = linear_layers(model, lora.layers)
    model.requires_grad_(False)
    return LoraAdapter(layers, lora)


def linear_layers(model: nn.Module, parts: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers of some parts, by name; "blocks.1" is a part, and not one of blocks.10."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    for part in parts:
        if not any(_within(name, part) for name in layers):
            known = dict.fromkeys(name.split(".")[0] for name in layers)
            raise LiDiTError(
                f"the recipe's lora changes {part!r}, which has no linear layer; expected parts "
                f"of {', '.join(known)}"
            )
    return {name: m for name, m in layers.items() if any(_within(name, part) for part in parts)}


def _within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def lora_layers(
    adapter: LoraAdapter, state: Mapping[str, Tensor] | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by the layer's name in a LI-DiT.

    Args:
        state: in place of the adapter's own state dict, such as its moving average.
    """
    state = adapter.state_dict() if state is None else state
    return {key.replace("/", "."): (state[f"{key}.A"], state[f"{key}.B"]) for key in adapter}


def save_lora(
    adapter: LoraAdapter,
    config: LiDiTConfig,
    path: str | Path,
    base: str = "",
    state: Mapping[str, Tensor] | None = None,
    longest: Mapping[str, int] | None = None,
) -> None:
    """Write what `lidit generate --lora` and the host's stock LoRA nodes load.

    Args:
        base: name of the model that it was trained on.
        state: see `lora_layers`.
        longest: see `write_lora`.
    """
    layers, lora = lora_layers(adapter, state), adapter.lora
    write_lora(path, layers, lora.alpha, config, base, longest, lora.names)
