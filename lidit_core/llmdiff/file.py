"""An adapter's file: one safetensors whose metadata is the whole configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LiDiTError
from ..io.tensors import check_tensors, fill, opened, read_safetensors, write_safetensors
from .adapter import GATES, LLMDiffAdapter
from .config import AdapterConfig

KEY = "llmdiff"  # of the metadata


def write_adapter(path: str | Path, weights: Mapping[str, Tensor], config: AdapterConfig) -> None:
    """Write an adapter; a layer's scalars have no dimension in the file."""
    scalars = {k: v.reshape(()) for k, v in weights.items() if _is_gate(k)}
    write_safetensors(path, {**weights, **scalars}, {KEY: config.to_json()})


def read_adapter_config(path: str | Path) -> AdapterConfig:
    """The configuration of an adapter, without its weights."""
    with opened(path) as file:
        return _config(file.metadata() or {}, path)


def read_adapter(path: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Configuration and checked weights.

    Raises:
        LiDiTError: it is another kind of file, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    config = _config(metadata, path)
    tensors |= {k: v.reshape(1) for k, v in tensors.items() if _is_gate(k) and v.ndim == 0}
    expected = LLMDiffAdapter(config, device="meta").state_dict()
    check_tensors(tensors, expected, f"the adapter {path}")
    return config, tensors


def load_adapter(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LLMDiffAdapter:
    """An adapter with its weights, computing in ``dtype``."""
    config, tensors = read_adapter(path)
    empty = LLMDiffAdapter(config, device="meta")
    return fill(empty, tensors, f"the adapter {path}", dtype).to(device)


def _is_gate(name: str) -> bool:
    layers, _, last = name.rpartition(".")
    return layers.startswith("layers.") and last in GATES


def _config(metadata: Mapping[str, str], path: str | Path) -> AdapterConfig:
    if KEY not in metadata:
        raise LiDiTError(
            f"{path} is no LLMDiff adapter; expected a file that `lidit train` wrote with "
            "trains: adapter"
        )
    return AdapterConfig.from_json(metadata[KEY])
