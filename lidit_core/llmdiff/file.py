"""An adapter's file: one safetensors whose metadata is the whole configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LiDiTError
from ..io.tensors import (
    Shape,
    check_finite,
    check_sizes,
    check_tensors,
    fill,
    opened,
    read_safetensors,
    shapes_in,
    shapes_of,
    write_safetensors,
)
from ..io.terms import terms_for
from .adapter import GATES, LLMDiffAdapter
from .config import LAST, AdapterConfig

ADAPTER_KEY = "llmdiff"  # of the metadata


def write_adapter(path: str | Path, weights: Mapping[str, Tensor], config: AdapterConfig) -> None:
    """Write an adapter; a layer's scalars have no dimension in the file."""
    check_finite(weights, path)
    scalars = {k: v.reshape(()) for k, v in weights.items() if _is_gate(k)}
    about = {ADAPTER_KEY: config.to_json(), **terms_for([config.llm.name])}
    write_safetensors(path, {**weights, **scalars}, about)


def read_adapter_config(path: str | Path) -> AdapterConfig:
    """The configuration of an adapter whose tensors have its sizes; no weight is read."""
    with opened(path) as file:
        config = _config(file.metadata() or {}, path)
        _check_adapter_sizes(config, shapes_in(file), path)
        return config


def read_adapter(path: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Configuration and checked weights.

    Raises:
        LiDiTError: it is another kind of file, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    config = _config(metadata, path)
    tensors |= {k: v.reshape(1) for k, v in tensors.items() if _is_gate(k) and v.ndim == 0}
    _check_adapter_sizes(config, shapes_of(tensors), path)
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


def _check_adapter_sizes(config: AdapterConfig, found: Mapping[str, Shape], path) -> None:
    """Refuse a configuration whose sizes are not those of the tensors, before it is built."""
    refiner, tokens = config.refiner, config.token_width
    lists = {"layers.": len(config.layers), "refiner.blocks.": refiner.blocks if refiner else 0}
    some: dict[str, Shape] = {"norm.weight": (config.llm.width,)}
    if config.form != LAST:
        some["langevin.g"] = (config.blocks,)
    if refiner:
        some["refiner.entry.weight"] = (refiner.width, config.llm.width)
    if "replace" in config.modes:
        some["to_context.weight"] = (config.context_width, tokens)
    if "replace" in config.modes and config.pooled_width:
        some["to_pooled.weight"] = (config.pooled_width, tokens)
    for number, layer in enumerate(config.layers):
        some[f"layers.{number}.q.weight"] = (layer.width, layer.width)
    check_sizes(found, lists, some, f"the adapter {path}")


def _is_gate(name: str) -> bool:
    layers, _, last = name.rpartition(".")
    return layers.startswith("layers.") and last in GATES


def _config(metadata: Mapping[str, str], path: str | Path) -> AdapterConfig:
    if ADAPTER_KEY not in metadata:
        raise LiDiTError(
            f"{path} is no LLMDiff adapter; expected a file that `lidit train` wrote with "
            "trains: adapter"
        )
    return AdapterConfig.from_json(metadata[ADAPTER_KEY])
