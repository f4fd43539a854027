"""The shapes of weights that a change is for: LoRAs of each kind that the host reads, tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Sides = tuple[int | None, int | None]  # rows and columns; None where any number fits


def _lora(weights: Sequence[Any]) -> Sides | None:
    up, down, _, middle, _, reshaped = weights
    return (len(up), down[0].numel()) if middle is None and reshaped is None else None


def _loha(weights: Sequence[Any]) -> Sides | None:
    first, second, _, _, _, core, *_ = weights
    return (len(first), second[0].numel()) if core is None else None


def _lokr(weights: Sequence[Any]) -> Sides | None:
    first, second, _, first_a, first_b, second_a, second_b, core, _ = weights
    if core is not None:
        return None
    rows = len(first_a if first is None else first) * len(second_a if second is None else second)
    columns = (first_b if first is None else first)[0].numel()
    return rows, columns * (second_b if second is None else second)[0].numel()


def _glora(weights: Sequence[Any]) -> Sides | None:
    first, second = weights[2:4]  # what is added to the layer, its two maps in either order
    inner, outer = (first, second) if len(first) == second[0].numel() else (second, first)
    return len(outer), inner[0].numel()


def _oft(weights: Sequence[Any]) -> Sides | None:
    return weights[0].shape[-3] * weights[0].shape[-1], None  # it turns blocks of the layer's rows


BY_KIND: dict[str, Callable[[Sequence[Any]], Sides | None]] = {  # by what the host calls them
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _oft,
    "boft": _oft,
}


def shape_of(given: Any, weight: Tensor | None) -> tuple[int, ...] | None:
    """What shape a change of a weight has, (out, in) flattened as the weight; None = unknown."""
    if weight is None:
        return None
    if of_kind := BY_KIND.get(getattr(given, "name", "")):
        sides, own = of_kind(given.weights), (len(weight), weight[0].numel())
        if sides is None:
            return None
        rows, columns = (there or here for there, here in zip(sides, own))
        return tuple(weight.shape) if (rows, columns) == own else (rows, columns)
    if isinstance(given, tuple) and given[:1] == ("diff",):
        given = given[1]
        if len(given) > 1 and given[1].get("pad_weight"):
            return None
    if isinstance(given, tuple) and len(given) == 1 and isinstance(given[0], Tensor):
        return tuple(given[0].shape)
    return None
