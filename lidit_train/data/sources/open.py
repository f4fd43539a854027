"""Opens a recipe's sources of pictures."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path

from lidit_core.errors import LiDiTError

from ...recipe import Data, Source
from . import PictureSource
from .wording import Worded, worded

log = logging.getLogger(__name__)

DRAWN = {"stickers": "lidit_stickers.source:StickerSource"}  # of packages above this one, by kind


def open_sources(data: Data, index: Path) -> tuple[PictureSource, ...]:
    """Open every source of a recipe's data; the arguments and errors are `open_source`'s."""
    return tuple(open_source(source, data, index) for source in data.sources)


def captions_in(sources: Sequence[PictureSource]) -> list[str]:
    """Every caption of sources, each once."""
    texts = (t for source in sources for i in range(len(source.sizes)) for t in source.captions(i))
    return list(dict.fromkeys(text for text, _ in texts))


def open_source(source: Source, data: Data, index: Path) -> PictureSource:
    """Find a source's pictures, and warn of those that are left out.

    Args:
        index: folder where the indices of shards are kept.
    Raises:
        LiDiTError: it is not there, or has no picture that can be used.
    """
    opened = worded(_open(source, data, index), source)
    sentences = opened.left_out.sentences()
    if not len(opened.sizes):
        raise LiDiTError(
            f"source {source.path} has no picture that can be used: "
            f"{'; '.join(sentences) or 'none was found'}; expected pictures with captions "
            f"({', '.join(source.captions)})"
        )
    for sentence in sentences:
        log.warning("%s: %s", source.path, sentence)
    return opened


def unused_indices(sources: Sequence[PictureSource], folder: Path) -> list[Path]:
    """Files in the folder of shards' indices that none of these sources reads."""
    from .shards import ShardSource

    used: set[Path] = set()
    for source in sources:
        plain = source.plain if isinstance(source, Worded) else source
        used |= plain.index_files() if isinstance(plain, ShardSource) else set()
    return sorted(
        path
        for end in ("npy", "npz", "json")
        for path in folder.glob(f"*.{end}")
        if path not in used
    )


def _open(source: Source, data: Data, index: Path) -> PictureSource:
    if source.kind == "recording":
        raise LiDiTError(
            f"source {source.path} is a recording, which has no pictures; expected it where the "
            "recipe trains a bridge (trains: bridge)"
        )
    if source.kind in DRAWN:
        module, name = DRAWN[source.kind].split(":")
        return getattr(importlib.import_module(module), name)(source)
    if source.kind == "shards":
        from .shards import ShardSource

        return ShardSource(source, data, index)
    if not Path(source.path).exists():
        raise LiDiTError(f"source {source.path} is not there; give the path of a {source.kind}")
    if source.kind == "table":
        from .table import TableSource

        return TableSource(source, data)
    if not Path(source.path).is_dir():
        raise LiDiTError(f"source {source.path} is a file; a source of kind folder is a folder")
    from .folder import FolderSource

    return FolderSource(source, data)
