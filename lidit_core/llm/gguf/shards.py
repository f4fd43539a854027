"""A model folder's weights, written shard by shard so that few are in memory at once."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from ...io.tensors import write_safetensors
from ..decoder.checkpoint import INDEX, SINGLE

SHARD = 1 << 27  # bytes that are gathered before they are written


class ShardWriter:
    """Gathers tensors and writes them as one file, or as numbered ones with an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[str, int] = {}  # the shard of each tensor
        self.gathered: dict[str, Tensor] = {}
        self.shards = self.size = self.total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; it may be written now, or with others."""
        bytes_ = tensor.numel() * tensor.itemsize
        if self.gathered and self.size + bytes_ > SHARD:
            self._write()
        self.gathered[name] = tensor
        self.size += bytes_
        self.total += bytes_

    def close(self) -> None:
        """Write what is left, and the index."""
        if self.gathered:
            self._write()
        if self.shards == 1:
            self._path(0).rename(self.folder / SINGLE)
            return
        names = [f"model-{i + 1:05}-of-{self.shards:05}.safetensors" for i in range(self.shards)]
        for number, name in enumerate(names):
            self._path(number).rename(self.folder / name)
        index = {
            "metadata": {"total_size": self.total},
            "weight_map": {key: names[number] for key, number in self.places.items()},
        }
        (self.folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number}.safetensors"

    def _write(self) -> None:
        write_safetensors(self._path(self.shards), self.gathered, {"format": "pt"})
        self.places.update(dict.fromkeys(self.gathered, self.shards))
        self.gathered, self.size = {}, 0
        self.shards += 1
