"""A decoder whose blocks are in memory one at a time: for LLMs that are larger than memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint
from .stored import Stored

log = logging.getLogger(__name__)
SHARE = 0.8  # of the memory that is free, that an LLM may take whole


class Embedded(Protocol):
    """A decoder's embeddings, as transformers' classes give them."""

    def get_input_embeddings(self) -> nn.Embedding: ...


def exceeds_memory(size: int, name: str) -> bool:
    """Whether weights of so many bytes should not be in memory at once; if so it is logged."""
    import psutil  # accelerate brings it

    free = psutil.virtual_memory().available
    if size <= SHARE * free:
        return False
    log.warning(
        "%s takes %.1f GB of memory, of which %.1f GB are free, so its blocks are read from its "
        "files one at a time whenever it runs, which is slower",
        name,
        size / 1e9,
        free / 1e9,
    )
    return True


def read_as_it_runs(
    module: nn.Module,
    stored: Mapping[str, Stored],
    paths: Mapping[str, Path],
    dtype: torch.dtype,
    place: str,
) -> None:
    """Have a module without weights take those of a block when that runs, and give them back.

    What is neither a block nor the embeddings is read now; of the embeddings, whose weight stays
    without values, only the rows of a text's tokens are ever read.

    Args:
        stored: all of its tensors, by its own names.
        paths: the file of each, by the files' names.
        place: what stands before a block's number, such as `layers.`.
    """
    embeddings = cast(Embedded, module).get_input_embeddings()
    table = next(k for k, v in module.named_parameters() if v is embeddings.weight)
    files = _Files(paths, dtype)
    rest = [key for key in stored if key != table and not key.startswith(place)]
    module.load_state_dict(files.read({k: stored[k] for k in rest}), strict=False, assign=True)
    _Rows(embeddings, stored[table], files)
    in_memory = _InMemory(files)
    for number, block in enumerate(cast(nn.ModuleList, module.get_submodule(place[:-1]))):
        start = f"{place}{number}."
        own = {k.removeprefix(start): v for k, v in stored.items() if k.startswith(start)}
        in_memory.watch(block, own)


class _Files:
    """Reads tensors from files that are open only meanwhile: so their pages are given back."""

    def __init__(self, paths: Mapping[str, Path], dtype: torch.dtype) -> None:
        self.paths, self.dtype = paths, dtype

    def read(self, stored: Mapping[str, Stored]) -> dict[str, Tensor]:
        opened = self.open(stored.values())
        return {k: replace(v, handles=opened).read(self.dtype) for k, v in stored.items()}

    def rows(self, stored: Stored, ids: Tensor) -> Tensor:
        """Some rows of one tensor, in order."""
        opened = self.open([stored])
        if stored.scale:
            return replace(stored, handles=opened).read(self.dtype)[ids]
        return opened[stored.name].get_tensor(stored.name)[ids].to(self.dtype)

    def open(self, stored: Iterable[Stored]) -> Mapping:
        names = {name for one in stored for name in (one.name, one.scale) if name}
        return Checkpoint(sorted({self.paths[name] for name in names})).files


class _InMemory:
    """The one block that has its weights. It keeps them until another runs: hooks run it again."""

    def __init__(self, files: _Files) -> None:
        self.files, self.block, self.empty = files, None, {}

    def watch(self, block: nn.Module, stored: Mapping[str, Stored]) -> None:
        empty = {name: tensor for name, tensor in block.state_dict().items() if name in stored}

        def hook(block: nn.Module, *_) -> None:
            if self.block is block:
                return
            if self.block is not None:
                self.block.load_state_dict(self.empty, strict=False, assign=True)
            block.load_state_dict(self.files.read(stored), strict=False, assign=True)
            self.block, self.empty = block, empty

        block.register_forward_pre_hook(hook)


class _Rows:
    """Lets an embedding see the rows of a text's tokens alone, renumbered."""

    def __init__(self, embedding: nn.Embedding, stored: Stored, files: _Files) -> None:
        self.stored, self.files = stored, files
        self.empty = torch.empty(stored.shape, dtype=files.dtype, device="meta")
        embedding.padding_idx = None  # which may be beyond these rows; it is for training
        embedding.weight = nn.Parameter(self.empty, requires_grad=False)
        embedding.register_forward_pre_hook(self.take)
        embedding.register_forward_hook(self.give_back)

    def take(self, embedding: nn.Embedding, args: tuple) -> tuple:
        tokens, places = args[0].unique(return_inverse=True)
        rows = self.files.rows(self.stored, tokens)
        embedding.weight = nn.Parameter(rows, requires_grad=False)
        return places, *args[1:]

    def give_back(self, embedding: nn.Embedding, *_) -> None:
        embedding.weight = nn.Parameter(self.empty, requires_grad=False)
