"""How LoRA files of different trainers name their tensors, and what each makes of a weight.

The names are those that the host's stock loader reads, and the arithmetic is the host's, so that a
file gives the same pictures in both: comfy/weight_adapter of ComfyUI.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import LiDiTError

PREFIX = "diffusion_model."  # the host's, before the name of every layer
KOHYA = "lora_unet_"  # sd-scripts', before the layer's name with _ for the dots
ENDINGS = {  # of a tensor's name -> what it is to its layer
    ".lora_A.weight": "A",  # (rank, in)
    ".lora_B.weight": "B",  # (out, rank)
    ".lora_A.default.weight": "A",  # as peft names its adapters
    ".lora_B.default.weight": "B",
    ".lora_down.weight": "A",  # as sd-scripts and the host's training write them
    ".lora_up.weight": "B",
    ".lora.down.weight": "A",  # as diffusers has written them at some time
    ".lora.up.weight": "B",
    "_lora.down.weight": "A",
    "_lora.up.weight": "B",
    ".lora_linear_layer.down.weight": "A",
    ".lora_linear_layer.up.weight": "B",
    ".alpha": "alpha",  # a low-rank change counts alpha / rank times
    ".dora_scale": "dora",  # (out, 1) or (1, in): the length that rows or columns are brought to
    ".hada_w1_a": "w1_a",  # (out, rank): LoHa's
    ".hada_w1_b": "w1_b",  # (rank, in)
    ".hada_w2_a": "w2_a",
    ".hada_w2_b": "w2_b",
    ".oft_blocks": "oft",  # (blocks, n, n), blocks · n = out
    ".diff": "weight",  # the change itself
    ".diff_b": "bias",
}
HADAMARD = ("w1_a", "w1_b", "w2_a", "w2_b")
WRITTEN = {  # by a style's name: what stands before a layer, and what after for A and B
    "": (PREFIX, ".lora_A.weight", ".lora_B.weight"),
    "peft": (PREFIX, ".lora_A.default.weight", ".lora_B.default.weight"),
    "kohya": (KOHYA, ".lora_down.weight", ".lora_up.weight"),
}
Layer = dict[str, Tensor]  # by what `ENDINGS` says


def part_of(key: str) -> tuple[str, str] | None:
    """A tensor's layer and what it is to it; None where no style has such a name."""
    end = next((end for end in ENDINGS if key.endswith(end)), "")
    if not (end and key.startswith((PREFIX, KOHYA))):
        return None
    return key.removesuffix(end).removeprefix(PREFIX), ENDINGS[end]


def written_name(style: str, layer: str, part: str) -> str:
    """The name of a layer's A, B or alpha in a file of this style."""
    before, a, b = WRITTEN[style]
    ends: dict[str, str] = {"A": a, "B": b, "alpha": ".alpha"}
    return before + (layer.replace(".", "_") if before == KOHYA else layer) + ends[part]


def resolved(layers: Mapping[str, Layer], weights: Iterable[str], path) -> dict[str, Layer]:
    """Layers by their names in the model, those of sd-scripts too; what it lacks stays as it is.

    Raises:
        LiDiTError: a layer comes under both of its names.
    """
    whole = (key.removesuffix(".weight") for key in weights if key.endswith(".weight"))
    known = {KOHYA + name.replace(".", "_"): name for name in whole}
    found: dict[str, Layer] = {}
    for name, layer in layers.items():
        name = known.get(name, name)
        if name in found:
            raise LiDiTError(
                f"the LoRA {path} changes {name} under two names, {PREFIX}… and {KOHYA}…; expected "
                "one of them: take one trainer's tensors out of the file"
            )
        found[name] = layer
    return found


def change_of(layer: Layer) -> Tensor | None:
    """The low-rank change (out, in) in float32, convolutions flattened; None where it has none."""
    if "A" in layer:
        return _scale(layer, layer["A"]) * (_flat(layer, "B") @ _flat(layer, "A"))
    if "w1_a" in layer:
        first, second = (_flat(layer, f"{w}_a") @ _flat(layer, f"{w}_b") for w in ("w1", "w2"))
        return _scale(layer, layer["w1_b"]) * (first * second)
    return None


def _flat(layer: Layer, part: str) -> Tensor:
    return layer[part].float().flatten(1)


def _scale(layer: Layer, ranked: Tensor) -> float:
    return float(layer.get("alpha", ranked.shape[0])) / ranked.shape[0]


def turned(weight: Tensor, layer: Layer, strength: float) -> Tensor | None:
    """A weight (float32) changed by OFT or DoRA, which depend on it; None for other styles."""
    if "oft" in layer:
        return weight + strength * _rotation(weight, layer, strength)
    if "dora" in layer:
        return weight + strength * (_decomposed(weight, layer) - weight)
    return None


def _decomposed(weight: Tensor, layer: Layer) -> Tensor:
    """DoRA (Liu et al. 2024, arXiv 2402.09353): direction and length changed apart.

    As the host, rows are measured before the change, columns behind it.
    """
    change = change_of(layer)
    assert change is not None  # as `check_layer` has seen
    scale, changed = layer["dora"].float(), weight + change.view_as(weight)
    if scale.shape[0] == len(weight):
        length = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
    else:
        columns = changed.transpose(0, 1).flatten(1).norm(dim=1)
        length = columns.view(1, -1, *[1] * (weight.ndim - 2))
    return changed * (_like(scale, length) / (length + torch.finfo(torch.float32).eps))


def _like(scale: Tensor, length: Tensor) -> Tensor:
    return scale.reshape(length.shape)


def _rotation(weight: Tensor, layer: Layer, strength: float) -> Tensor:
    """OFT (Qiu et al. 2023, arXiv 2306.07280): how blocks of rows change by Cayley's rotations.

    As the host, which counts the strength here and once more where the change is added.
    """
    blocks = layer["oft"].float()
    turn = blocks - blocks.transpose(1, 2)
    limit, norm = float(layer.get("alpha", 0.0)), turn.norm() + 1e-8
    if 0 < limit < norm:
        turn = turn * limit / norm
    one = torch.eye(blocks.shape[1])
    rotation = (one + turn) @ (one - turn).inverse()
    rows = weight.view(*blocks.shape[:2], *weight.shape[1:])
    change = torch.einsum("k n m, k n ... -> k m ...", strength * (rotation - one), rows)
    return change.reshape(weight.shape)


def shape_of(layer: Layer, weight: Tensor | None) -> list[int] | None:
    """The shape of the layer's change of its weight; None where that does not change.

    Args:
        weight: of the model, if it has it; OFT's change is as wide as that.
    """
    if "A" in layer:
        return [layer["B"].shape[0], *layer["A"].shape[1:]]
    if "w1_a" in layer:
        return [layer["w1_a"].shape[0], layer["w1_b"].shape[1]]
    if "oft" in layer:
        rows = layer["oft"].shape[0] * layer["oft"].shape[1]
        return [rows, *(weight.shape[1:] if weight is not None else ())]
    return list(layer["weight"].shape) if "weight" in layer else None


def style_fault(layer: Layer) -> str | None:
    """What is wrong with a layer's tensors among themselves, and what was expected."""
    styles = [{"A", "B"}, {*HADAMARD}, {"oft"}, {"weight"}]
    there = [style for style in styles if style & {*layer}]
    if len(there) > 1:
        return "changes of two styles; expected one"
    shapes = {part: tuple(tensor.shape) for part, tensor in layer.items()}
    if "dora" in layer and not ({"A", "w1_a"} & {*layer}):
        return "dora_scale alone; expected a low-rank change beside it"
    if {*HADAMARD} & {*layer}:
        held = [shapes.get(part, ()) for part in HADAMARD]
        (a, b, c, d) = held
        fits = all(len(shape) == 2 for shape in held) and a[1] == b[0] > 0 < c[1] == d[0]
        if not (fits and (a[0], b[1]) == (c[0], d[1])):
            return f"LoHa's four as {held}; expected (out, rank) and (rank, in), twice"
    if "oft" in layer and not (len(shapes["oft"]) == 3 and shapes["oft"][1] == shapes["oft"][2]):
        return f"oft_blocks {shapes['oft']}; expected (blocks, n, n)"
    return None
