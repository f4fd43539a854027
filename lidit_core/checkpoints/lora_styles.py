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
    """The name of a layer's tensor, as `ENDINGS` knows them, in a file of this style."""
    before, a, b = WRITTEN[style]
    ends = {part: end for end, part in ENDINGS.items()} | {"A": a, "B": b}
    return before + (layer.replace(".", "_") if before == KOHYA else layer) + ends[part]


def rank_of(layer: Layer) -> int:
    """The rank of a low-rank change; of OFT the rows of a block."""
    if "oft" in layer:
        return layer["oft"].shape[1]
    return layer["A" if "A" in layer else "w1_b"].shape[0]


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
        return _scale(layer, layer["w1_b"]) * hadamard(*(_flat(layer, part) for part in HADAMARD))
    return None


def hadamard(w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor) -> Tensor:
    """LoHa (Hyeon-Woo et al. 2021, arXiv 2108.06098): two products, number by number."""
    return (w1_a @ w1_b) * (w2_a @ w2_b)


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
    change = change_of(layer)
    assert change is not None  # as `style_fault` has seen
    changed = weight + change.view_as(weight)
    return changed * dora_factors(weight, changed, layer["dora"].float())


def dora_factors(weight: Tensor, changed: Tensor, scale: Tensor) -> Tensor:
    """DoRA (Liu et al. 2024, arXiv 2402.09353): direction and length are changed apart.

    As the host, rows are measured before the change, columns behind it. The paper measures columns,
    behind it.

    Args:
        scale: the length that each row (out, 1) or each column (1, in) is brought to.
    Returns:
        What the changed weight's rows or columns are multiplied by.
    """
    lengths = row_lengths(weight) if scale.shape[0] == len(weight) else column_lengths(changed)
    return scale.reshape(lengths.shape) / lengths


def row_lengths(weight: Tensor) -> Tensor:
    """The lengths of rows (out, 1, …), none of them 0."""
    lengths = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
    return lengths + torch.finfo(torch.float32).eps


def column_lengths(weight: Tensor) -> Tensor:
    """The lengths of columns (1, in, …), none of them 0."""
    lengths = weight.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *[1] * (weight.ndim - 2))
    return lengths + torch.finfo(torch.float32).eps


def _rotation(weight: Tensor, layer: Layer, strength: float) -> Tensor:
    """How blocks of rows change by OFT's rotations.

    As the host, which counts the strength here and once more where the change is added.
    """
    blocks = layer["oft"].float()
    turn = strength * oft_turns(blocks, float(layer.get("alpha", 0.0)))
    rows = weight.view(*blocks.shape[:2], *weight.shape[1:])
    return torch.einsum("k n m, k n ... -> k m ...", turn, rows).reshape(weight.shape)


def oft_turns(blocks: Tensor, limit: float) -> Tensor:
    """OFT (Qiu et al. 2023, arXiv 2306.07280): Cayley's rotations, less the identity.

    Row m of a block becomes the sum over n of [n, m] times row n, added to itself.

    Args:
        blocks: (blocks, n, n), of which what is antisymmetric counts.
        limit: on the norm of all of it; 0 = none.
    """
    turn = blocks - blocks.transpose(1, 2)
    if limit > 0:
        turn = turn * (limit / (turn.norm() + 1e-8)).clamp(max=1.0)
    one = torch.eye(blocks.shape[1], device=blocks.device, dtype=blocks.dtype)
    return torch.bmm(one + turn, torch.linalg.inv_ex(one - turn).inverse) - one


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
