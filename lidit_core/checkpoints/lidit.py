"""Checkpoints: one safetensors file whose metadata is the whole configuration.

Loading is strict: every key and every shape is compared before a weight is touched. The sizes are
compared first, before a model of them is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..dtypes import check_dtype
from ..errors import LiDiTError
from ..io.tensors import (
    HOST_PREFIX,
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
from ..model.config import LiDiTConfig
from ..model.dit import LiDiT
from ..model.vae import TinyAutoencoder

Kept = TypeVar("Kept")
CONFIG_KEY = "lidit"  # of the metadata that holds the configuration's JSON
CONFIG_TENSOR = "lidit_config"  # the same as bytes, where a host writes metadata of its own


def save_lidit(model_or_weights: LiDiT | Mapping[str, Tensor], config: LiDiTConfig, path) -> None:
    """Write a checkpoint, with the terms that its LLMs' makers pass on.

    Raises:
        LiDiTError: a weight is not finite, or the file cannot be written.
    """
    weights = model_or_weights
    if isinstance(weights, LiDiT):
        weights = weights.state_dict()
    check_finite(weights, path)
    terms = terms_for(spec.name for spec in config.llms)
    write_safetensors(path, weights, {CONFIG_KEY: config.to_json(), **terms})


def read_config(path: str | Path) -> LiDiTConfig:
    """The configuration of a checkpoint whose tensors have its sizes; no weight is read.

    Raises:
        LiDiTError: it is missing, damaged or another kind of file.
    """
    with opened(path) as file:
        named = [k for k in file.keys() if k.removeprefix(HOST_PREFIX) == CONFIG_TENSOR]
        as_tensor = file.get_tensor(named[0]) if named else None
        config = config_of(file.metadata() or {}, path, as_tensor)
        check_model_sizes(config, _without_host(shapes_in(file)), f"the checkpoint {path}")
        return config


def config_of(
    metadata: Mapping[str, str], path: str | Path, as_tensor: Tensor | None = None
) -> LiDiTConfig:
    """The configuration from a file's metadata, or from the tensor that stands in for it."""
    if CONFIG_KEY not in metadata and as_tensor is not None:
        text = as_tensor.flatten().to(torch.uint8)
        metadata = {CONFIG_KEY: bytes(text.tolist()).decode("utf-8", "replace")}
    if CONFIG_KEY not in metadata:
        raise LiDiTError(
            f"{path} holds no LI-DiT configuration; expected a checkpoint that this library wrote"
        )
    return LiDiTConfig.from_json(metadata[CONFIG_KEY])


def config_tensor(config: LiDiTConfig) -> Tensor:
    """The configuration as bytes, to be saved as ``CONFIG_TENSOR`` beside the weights."""
    return torch.tensor(list(config.to_json().encode()), dtype=torch.uint8)


def read_lidit(path: str | Path) -> tuple[LiDiTConfig, dict[str, Tensor]]:
    """Configuration and checked weights, whatever a host put before their names.

    Raises:
        LiDiTError: it is missing, damaged or another kind of file.
    """
    tensors, metadata = read_safetensors(path)
    tensors = _without_host(tensors)
    config = config_of(metadata, path, tensors.pop(CONFIG_TENSOR, None))
    what = f"the checkpoint {path}"
    check_model_sizes(config, shapes_of(tensors), what)
    check_tensors(tensors, LiDiT(config, device="meta").state_dict(), what)
    return config, tensors


def check_model_sizes(config: LiDiTConfig, found: Mapping[str, Shape], what: str) -> None:
    """Refuse a configuration whose sizes are not those of the tensors, by their shapes."""
    refiner, width, text = config.refiner, config.width, "text_side.linguistic."
    branches = range(len(config.llms))
    read = refiner.collaborative_blocks if len(branches) > 1 else 0
    lists = {
        "blocks.": config.depth,
        text: len(branches),
        **{f"{text}{i}.blocks.": refiner.blocks for i in branches},
        **{f"text_side.collaborative.branches.{i}.": read for i in branches},
    }
    some = {
        "patch_embedder.weight": (width, config.latent.channels, config.patch, config.patch),
        "pooled_text.bias": (width,),
        **{f"{text}{i}.entry.weight": (width, llm.width) for i, llm in enumerate(config.llms)},
    }
    check_sizes(found, lists, some, what)


def _without_host(tensors: Mapping[str, Kept]) -> dict[str, Kept]:
    """The model's own tensors; a host saves marks of its own, a VAE and more beside them."""
    prefixed = {k: v for k, v in tensors.items() if k.startswith(HOST_PREFIX)} or tensors
    return {k.removeprefix(HOST_PREFIX): v for k, v in prefixed.items()}


def load_lidit(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LiDiT:
    """A LI-DiT with its weights, computing in ``dtype``: float32, bfloat16 or float16.

    Raises:
        LiDiTError: the file is missing, damaged or of another kind, or the dtype is another one.
    """
    check_dtype(dtype)
    config, tensors = read_lidit(path)
    return fill(LiDiT(config, device="meta"), tensors, f"the checkpoint {path}", dtype).to(device)


def load_vae(path: str | Path, device: torch.device | str = "cpu") -> TinyAutoencoder:
    """The autoencoder of a file in TAESD's layout with 16 channels, computing in float32.

    Raises:
        LiDiTError: it is missing, damaged or another kind of file.
    """
    tensors, _ = read_safetensors(path)
    with torch.device("meta"):
        model = TinyAutoencoder()
    what = f"the autoencoder {path}"
    return fill(model, tensors, what, torch.float32).skip_zero_blocks().to(device)
