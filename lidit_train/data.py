"""What a run learns from: latents that know their caption, and every caption's LLM states."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lidit_core.checkpoint import read_safetensors, write_safetensors
from lidit_core.states import LLMStates

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatentSet:
    """Pictures of one size, as an autoencoder's latents."""

    latents: Tensor  # (N, C, H, W), not yet normalised, bfloat16
    captions: Tensor  # (N,) int64, index of each picture's caption
    content: Tensor | None = None  # (N, h, w) uint8: what each patch shows, where that is known

    def save(self, path: Path) -> None:
        tensors = {"latents": self.latents, "captions": self.captions, "content": self.content}
        write_safetensors(path, {k: v for k, v in tensors.items() if v is not None}, {})

    @classmethod
    def load(cls, path: Path) -> "LatentSet":
        tensors, _ = read_safetensors(path)
        return cls(tensors["latents"], tensors["captions"], tensors.get("content"))


@dataclass(frozen=True)
class CaptionStates:
    """States of every caption from every LLM; the last row is the empty prompt's."""

    branches: dict[int, LLMStates]  # K + 1 rows each
    readable: Tensor  # (K, branches) bool: may this LLM read this caption without the others?

    @property
    def empty(self) -> int:
        """The row of the empty prompt."""
        return len(self.readable)

    def rows(self, captions: Tensor, branches: tuple[int, ...]) -> dict[int, LLMStates]:
        """Float32 states of some captions, with no more padding than they need."""
        chosen = {i: self.branches[i][captions].trimmed() for i in branches}
        return {i: states.to(dtype=torch.float32) for i, states in chosen.items()}

    def usable(self, branches: tuple[int, ...]) -> Tensor:
        """(K,) bool: captions that one at least of these LLMs can read."""
        return self.readable[:, list(branches)].any(dim=1)


def save_states(states: LLMStates, path: Path) -> None:
    write_safetensors(path, {"hidden": states.hidden, "roles": states.roles}, {})


def load_states(path: Path) -> LLMStates:
    tensors, _ = read_safetensors(path)
    return LLMStates(tensors["hidden"], tensors["roles"])


@contextmanager
def in_pieces(
    path: Path, of: object, count: int, rows: int, make: Callable[[int, int], dict[str, Tensor]]
) -> Iterator[list[dict[str, Tensor]]]:
    """What ``make(first, last)`` gives for ``count`` rows, so many at once, for a file at ``path``.

    Every piece is kept beside ``path`` until the block ends without an error, so that work which
    was interrupted goes on; ``of`` is all that the pieces depend on, told by its ``repr``.
    """
    folder = path.with_name(f"{path.stem}-{hashlib.sha256(repr(of).encode()).hexdigest()[:12]}")
    pieces = []
    for first in range(0, count, rows):
        last = min(first + rows, count)
        piece = folder / f"{first}-{last}.safetensors"
        if not piece.is_file():
            write_safetensors(piece, make(first, last), {})
            log.info("%s: %d of %d", path.name, last, count)
        pieces.append(read_safetensors(piece)[0])
    yield pieces
    shutil.rmtree(folder)
