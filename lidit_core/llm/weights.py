"""Reading the part of a safetensors checkpoint that a cut decoder needs, sharded or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import LiDiTError
from ..progress import told

if TYPE_CHECKING:
    from safetensors import safe_open

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder; a shard that the index names must be there."""
    if (folder / INDEX).is_file():
        files = [folder / name for name in _shards(folder / INDEX)]
    else:
        files = [folder / SINGLE] if (folder / SINGLE).is_file() else sorted(
            folder.glob("*.safetensors"))  # fmt: skip
    if not files:
        raise LiDiTError(
            f"{folder} has no safetensors file; LLMs are read from safetensors or GGUF only, so "
            "convert it"
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise LiDiTError(
            f"{folder} lacks {len(missing)} of {len(files)} shards, the first {missing[0]}; "
            "download it again"
        )
    return files


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LiDiTError(
            f"{index} does not say which shards there are ({error!r}); expected a weight_map, so "
            "download it again"
        ) from error


class Checkpoint:
    """The tensors of some safetensors files, opened lazily."""

    def __init__(self, files: list[Path]):
        from safetensors import SafetensorError, safe_open

        self.files: dict[str, safe_open] = {}
        for file in files:
            try:
                handle = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise LiDiTError(
                    f"{file} is not a whole safetensors file ({error}); download it again"
                ) from error
            self.files.update(dict.fromkeys(handle.keys(), handle))

    def prefix(self, wanted: Mapping[str, Tensor]) -> str:
        """What the checkpoint puts before a decoder's own names, such as `language_model.model.`"""
        probe = next(iter(wanted))
        prefixes = [key[: -len(probe)] for key in self.files if key.endswith(probe)]
        if not prefixes:
            return ""
        return max(prefixes, key=lambda p: sum(p + name in self.files for name in wanted))

    def missing(self, wanted: Mapping[str, Tensor]) -> list[str]:
        """The wanted names that the checkpoint lacks."""
        prefix = self.prefix(wanted)
        return [name for name in wanted if prefix + name not in self.files]

    def read(self, wanted: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """The wanted tensors by a decoder's own names, checked against its shapes, in `dtype`."""
        prefix, state = self.prefix(wanted), {}
        size = sum(like.numel() for like in wanted.values()) * dtype.itemsize
        what = f"loading {size / 1e6:,.0f} MB of weights"
        for name, like in told(what, wanted.items(), len(wanted)):
            tensor = self.files[prefix + name].get_tensor(prefix + name)
            if tensor.shape != like.shape:
                raise LiDiTError(
                    f"tensor {name} of the LLM has shape {tuple(tensor.shape)}; expected "
                    f"{tuple(like.shape)} by its config.json, so use files of one model"
                )
            state[name] = tensor.to(dtype)
        return state
