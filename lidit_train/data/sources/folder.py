"""Pictures in a folder, each with its captions in files of the same stem."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import LeftOut
from .files import PictureFiles, Row

if TYPE_CHECKING:
    from ...recipe import Data, Source

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


class FolderSource(PictureFiles):
    """Every picture anywhere below a folder, in the order of their paths.

    ``captions: {txt: 1, long.txt: 0.5}`` reads ``cat.txt`` and ``cat.long.txt`` beside
    ``cat.png``. What is hidden (``.x``) is not looked at, links to folders are not followed.
    """

    def __init__(self, source: Source, data: Data):
        root = Path(source.path)

        def captions_of(row: Row) -> list[bytes | None]:
            stem = row.name.rpartition(".")[0]
            return [_bytes_of(root / f"{stem}.{extension}") for extension in source.captions]

        rows = (Row(name, name) for name in picture_names(root))
        super().__init__(root, rows, captions_of, source.captions, data, LeftOut())


def picture_names(root: Path) -> list[str]:
    """The pictures' paths below a folder, sorted, with "/" on every system."""
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        pictures = (n for n in files if n.lower().endswith(EXTENSIONS) and not n.startswith("."))
        names += [(below / name).as_posix() for name in pictures]
    return sorted(names)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
