"""A GGUF's tensors as PyTorch's, in 16 bits where that keeps them, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...errors import LiDiTError, check
from .header import TensorInfo

AT_ONCE = 1 << 20  # values that are unpacked at once
BLOCK = 32  # neighbouring values, of which the largest says how exact the others must be
EXACT = 6e-4  # of it: half of float16's last digit is 4.9e-4, bfloat16 loses 4e-3
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def unpacked(info: TensorInfo) -> Tensor:
    """A tensor's values; in float32 if it is a vector, else in the first dtype that keeps them."""
    for dtype in DTYPES[-1:] if len(info.shape) < 2 else DTYPES:
        found = _whole(info, dtype)
        if found is not None:
            return found
    raise AssertionError  # float32 keeps all


def narrowed(values: Tensor) -> Tensor:
    """The same for a tensor in float32 that is unpacked already; buffers stay as they are."""
    if values.ndim < 2 or values.dtype != torch.float32:
        return values
    side = values.shape[-1]
    for dtype in DTYPES[:-1]:
        rounded = values.to(dtype)
        if _keeps(values.flatten(), rounded.flatten(), side):
            return rounded
    return values


def _whole(info: TensorInfo, dtype: torch.dtype) -> Tensor | None:
    """The tensor in this dtype; None where that does not keep its values."""
    out, start = torch.empty(info.count, dtype=dtype), 0
    for values in _pieces(info):
        piece = torch.from_numpy(values)
        check(
            bool(piece.isfinite().all()),
            f"tensor {info.name} of {info.file.name} holds numbers that are not finite; get the "
            "file again",
        )
        rounded = piece.to(dtype)
        if dtype != torch.float32 and not _keeps(piece, rounded, info.shape[-1]):
            return None
        out[start : start + len(piece)] = rounded
        start += len(piece)
    return out.reshape(info.shape)


def _keeps(values: Tensor, rounded: Tensor, side: int) -> bool:
    block = math.gcd(side, BLOCK)
    error = (rounded.float() - values).abs_().view(-1, block).amax(1)
    return bool((error <= EXACT * values.abs().view(-1, block).amax(1)).all())


def _pieces(info: TensorInfo) -> Iterator[np.ndarray]:
    """The values in float32, in order, a few rows at once."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(info.kind)
        block, size = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError) as error:
        raise LiDiTError(
            f"tensor {info.name} of {info.file.name} is packed in a way, number {info.kind}, that "
            "this release of gguf does not know; update it, or get another GGUF of the LLM"
        ) from error
    row = info.shape[-1] if info.shape else 1
    rows = info.count // max(row, 1)
    row_bytes = row // block * size
    check(
        row % block == 0 and info.file.stat().st_size >= info.offset + rows * row_bytes,
        f"tensor {info.name} of {info.file.name} reaches beyond the file's end, which is cut "
        "short; get it again",
    )
    step = max(1, AT_ONCE // max(row, 1))
    for first in range(0, rows, step):
        count = min(step, rows - first)
        raw = np.fromfile(
            info.file, np.uint8, count * row_bytes, offset=info.offset + first * row_bytes
        )
        yield _values(raw.reshape(count, row_bytes), kind, info)


def _values(raw: np.ndarray, kind, info: TensorInfo) -> np.ndarray:
    from gguf.quants import dequantize

    plain = {"F32": np.float32, "F64": np.float64, "F16": np.float16}.get(kind.name)
    try:
        values = raw.view(plain) if plain else dequantize(raw, kind)
    except NotImplementedError as error:
        raise LiDiTError(
            f"tensor {info.name} of {info.file.name} is packed as {kind.name}, which this release "
            "of gguf does not unpack; update it, or get another GGUF of the LLM"
        ) from error
    return np.ascontiguousarray(values, dtype=np.float32).reshape(-1)


def in_rotated_halves(tensor: Tensor, heads: int) -> Tensor:
    """Queries or keys in transformers' order: a head's even channels, then its odd ones.

    llama.cpp's older rotary embedding turns neighbours, transformers' turns halves.
    """
    pairs = tensor.reshape(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape).contiguous()
