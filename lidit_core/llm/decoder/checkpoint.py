"""Reading the part of a safetensors checkpoint that a cut decoder needs, sharded or not."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ...errors import LiDiTError
from ...paths import files_like
from .stored import Stored, stored

if TYPE_CHECKING:
    from safetensors import safe_open

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARED = "shared.weight"  # the embeddings of T5's kind, which its encoder and its decoder read


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder; a shard that the index names must be there."""
    if (folder / INDEX).is_file():
        files = [folder / name for name in _shards(folder / INDEX)]
    else:
        alone = (folder / SINGLE).is_file()
        files = [folder / SINGLE] if alone else files_like(folder, "*.safetensors")
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
        self.paths: dict[str, Path] = {}  # of the same tensors
        for file in files:
            try:
                handle = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise LiDiTError(
                    f"{file} is not a whole safetensors file ({error}); download it again"
                ) from error
            self.files.update(dict.fromkeys(handle.keys(), handle))
            self.paths.update(dict.fromkeys(handle.keys(), file))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; no weight is read."""
        return Stored(name, self.files).shape

    def prefix(self, wanted: Mapping[str, Tensor]) -> str:
        """What the checkpoint puts before a decoder's own names, such as `language_model.model.`"""
        probe = next(name for name in wanted if not self._is_shared(name))
        prefixes = [key[: -len(probe)] for key in self.files if key.endswith(probe)]
        if not prefixes:
            return ""
        return max(prefixes, key=lambda p: sum(p + name in self.files for name in wanted))

    def missing(self, wanted: Mapping[str, Tensor]) -> list[str]:
        """The wanted names that the checkpoint lacks."""
        prefix = self.prefix(wanted)
        return [name for name in wanted if self.place(prefix + name) not in self.files]

    def place(self, name: str) -> str:
        """The name under which a tensor lies here: an encoder's embeddings may be shared ones."""
        shared = name not in self.files and self._is_shared(name.removeprefix("encoder."))
        return SHARED if shared else name

    def _is_shared(self, name: str) -> bool:
        return name == "embed_tokens.weight" and SHARED in self.files

    def stored(self, wanted: Mapping[str, Tensor]) -> dict[str, Stored]:
        """How the wanted tensors are stored, checked against a decoder's shapes; none is read."""
        prefix, beside = self.prefix(wanted), self._beside(wanted)
        found = {}
        for name, like in wanted.items():
            place = self.place(prefix + name)
            layer = place.rpartition(".")[0]
            found[name] = one = stored(place, beside.get(layer, ()), self.files)
            if one.shape != tuple(like.shape):
                raise LiDiTError(
                    f"tensor {name} of the LLM has shape {one.shape}; expected "
                    f"{tuple(like.shape)} by its config.json, so use files of one model"
                )
        return found

    def _beside(self, wanted: Mapping[str, Tensor]) -> dict[str, Collection[str]]:
        """What lies in a layer that no module asks for, by the layer's name."""
        prefix = self.prefix(wanted)
        asked = {prefix + name for name in wanted}
        layers = {name.rpartition(".")[0] for name in asked}
        beside: dict[str, list[str]] = defaultdict(list)
        for key in self.files.keys() - asked:
            parts = key.split(".")
            for cut in range(len(parts) - 1, 0, -1):
                layer = ".".join(parts[:cut])
                if layer + ".weight" in asked and layer in layers:
                    beside[layer].append(".".join(parts[cut:]))
                    break
        return dict(beside)
