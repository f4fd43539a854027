"""LoRA for LI-DiT: small changes of frozen linear layers, of any kind that `lora_kinds` has.

What is trained lives in a module of its own and reaches the layers through hooks, so that the
model's weights keep their names and a checkpoint of it stays the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lidit_core.checkpoints.lora import write_lora
from lidit_core.checkpoints.lora_styles import Layer
from lidit_core.errors import LiDiTError
from lidit_core.model.config import LiDiTConfig

from ...recipe import Lora
from .lora_kinds import Change, change_for, check_kind


class LoraAdapter(nn.ModuleDict):
    """Every layer's change, by the layer's name with / for the dots.

    Put it into the module that is trained, beside the model; a hook needs no call of it. A deep
    copy of a model that has hooks has copies of the changes too.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], lora: Lora) -> None:
        changes = {name.replace(".", "/"): change_for(x, lora) for name, x in layers.items()}
        super().__init__(changes)
        self.lora = lora
        self.handles = [
            handle
            for layer, change in zip(layers.values(), changes.values())
            for handle in change.put_on(layer)
        ]

    def remove(self) -> None:
        """Take the change off the model again."""
        for handle in self.handles:
            handle.remove()


def add_lora(model: nn.Module, lora: Lora) -> LoraAdapter:
    """Freeze the model and put a LoRA on it; before torch.compile, which keeps what it finds.

    Raises:
        LiDiTError: the recipe names a part without linear layers, or its kind does not fit one.
    """
    layers = changed_layers(model, lora)
    model.requires_grad_(False)
    return LoraAdapter(layers, lora)


def changed_layers(model: nn.Module, lora: Lora) -> dict[str, nn.Linear]:
    """The layers that a recipe's LoRA changes, by name; refused as `add_lora` does."""
    layers = linear_layers(model, lora.layers)
    check_kind(layers, lora)
    return layers


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
) -> dict[str, Layer]:
    """The tensors of a file, as lora_styles.ENDINGS has them, by the layer's name in a LI-DiT.

    Args:
        state: in place of the adapter's own state dict, such as its moving average.
    """
    state = adapter.state_dict() if state is None else state
    found = {}
    for key, change in adapter.items():
        assert isinstance(change, Change)  # as all are
        own = {name: state[f"{key}.{name}"] for name, _ in change.named_parameters()}
        found[key.replace("/", ".")] = change.parts(own)
    return found


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
