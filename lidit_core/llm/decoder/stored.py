"""How one tensor is stored in a checkpoint, 8-bit weights with their scales included."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import LiDiTError, check, first_line

PLAIN = ("F64", "F32", "F16", "BF16")  # as safetensors names dtypes
FP8 = ("F8_E4M3", "F8_E5M2")
INT8 = "I8"
SCALES = ("weight_scale", "scale_weight", "weight_scale_inv")  # each multiplies the weight
OF_INPUTS = ("input_scale", "scale_input")  # for products in 8 bits, which are not made here
MARKER = "comfy_quant"  # ComfyUI's description of one layer, JSON in bytes
FILE_MARKER = "scaled_fp8"  # ComfyUI's older sign that every 8-bit layer has a scale
FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8_tensorwise": INT8}
WITHOUT_MEANING = {"format", "full_precision_matrix_mult"}  # of a MARKER's fields
REMEDY = "give the weights as bfloat16, float16, plain or scaled fp8, or a GGUF file"


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint, and the tensors beside it that say how it is meant."""

    name: str
    handles: Mapping  # of all tensors of the checkpoint, as `safe_open` gives them
    scale: str = ""  # the name of its scale

    @property
    def kind(self) -> str:
        """The tensor's dtype, as safetensors names it."""
        return self.handles[self.name].get_slice(self.name).get_dtype()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.handles[self.name].get_slice(self.name).get_shape())

    def read(self, dtype: torch.dtype) -> Tensor:
        """Read the tensor's values in `dtype`, multiplied with its scale."""
        tensor = self.handles[self.name].get_tensor(self.name)
        if not self.scale:
            return tensor.to(dtype)
        scale = self.handles[self.scale].get_tensor(self.scale).float().reshape(-1)
        check(
            bool(scale.isfinite().all() and scale.any()),
            f"the scale {self.scale} of a weight is 0 or not finite; download its file again",
        )
        rows = scale.view(-1, *[1] * (tensor.dim() - 1)) if scale.numel() > 1 else scale
        return (tensor.float() * rows).to(dtype)


def stored(name: str, siblings: Collection[str], handles: Mapping) -> Stored:
    """How a wanted tensor is stored.

    Args:
        name: in the checkpoint.
        siblings: the checkpoint's other tensors of the same layer that no module asks for, by
            what follows the layer's name.
        handles: the file of every tensor.

    Raises:
        LiDiTError: it is stored in a way that is not read.
    """
    layer, _, leaf = name.rpartition(".")
    plain = Stored(name, handles)
    if leaf != "weight" or not siblings:
        return _unscaled(plain)
    known = {*SCALES, *OF_INPUTS, MARKER}
    strange = sorted(set(siblings) - known)
    check(
        not strange,
        f"the weight {name} lies beside {layer}.{strange[0] if strange else ''}, so it is stored "
        f"in a way that is not read; {REMEDY}",
    )
    if MARKER in siblings:
        _check_marker(plain, f"{layer}.{MARKER}")
    scales = [scale for scale in SCALES if scale in siblings]
    if not scales:
        return _unscaled(plain, marked=MARKER in siblings)
    check(len(scales) == 1, f"{name} has {len(scales)} scales, {' and '.join(scales)}; {REMEDY}")
    return _scaled(plain, f"{layer}.{scales[0]}")


def _unscaled(plain: Stored, marked: bool = False) -> Stored:
    kind = plain.kind
    whole = kind in PLAIN or (kind in FP8 and not marked and not _promised(plain))
    check(
        whole,
        f"the weight {plain.name} is stored as {kind} without a scale that says what its numbers "
        f"mean; {REMEDY}",
    )
    return plain


def _promised(plain: Stored) -> bool:
    """Whether the file says that every 8-bit layer has a scale; embeddings never had one."""
    marker = any(name.rpartition(".")[2] == FILE_MARKER for name in plain.handles)
    return marker and not any(word in plain.name for word in ("embed", "wte"))


def _scaled(plain: Stored, scale: str) -> Stored:
    numbers = Stored(scale, plain.handles)
    per_tensor, per_row = (1,), (plain.shape[0],)
    shape = tuple(size for size in numbers.shape if size != 1) or (1,)
    check(
        plain.kind in (*FP8, INT8) and numbers.kind in PLAIN and shape in (per_tensor, per_row),
        f"the weight {plain.name} is stored as {plain.kind} {plain.shape} with the scale {scale} "
        f"{numbers.kind} {numbers.shape}; expected 8-bit numbers with one scale, or one a row: "
        f"{REMEDY}",
    )
    return Stored(plain.name, plain.handles, scale)


def _check_marker(plain: Stored, marker: str) -> None:
    data = bytes(plain.handles[marker].get_tensor(marker).to(torch.uint8).flatten().tolist())
    try:
        fields = json.loads(data)
        kind = FORMATS.get(fields.get("format"))
        rest = sorted(key for key in set(fields) - WITHOUT_MEANING if fields[key])
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise LiDiTError(f"{marker} is no description ({first_line(error)}); {REMEDY}") from error
    check(
        kind == plain.kind and not rest,
        f"{marker} says {data[:200].decode('utf-8', 'replace')} of a weight stored as "
        f"{plain.kind}, which is not read; {REMEDY}",
    )
