"""Pictures in a folder, each with its captions in files of the same stem."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import LINKED, LeftOut
from .files import PictureFiles
from .filters import SIDECAR, json_fields
from .formats import is_picture, places, sought, unread_format
from .looking import Beside, PictureEntry
from .masks import ALPHA, is_mask, mask_of
from .reading import printable

if TYPE_CHECKING:
    from ...recipe import Data, Source


class FolderSource(PictureFiles):
    """Every picture anywhere below a folder, in the order of their paths.

    ``captions: {txt: 1, long.txt: 0.5}`` reads ``cat.txt`` and ``cat.long.txt`` beside
    ``cat.png``; where a recipe names none, ``cat.caption``, ``cat.cap`` and ``cat.text`` are looked
    for too. ``least`` and ``most`` look into ``cat.json``. What is hidden (``.x``) is not looked
    at, links to folders are told and not followed.
    """

    def __init__(self, source: Source, data: Data):
        root, left_out = Path(source.path), LeftOut()
        wanted = sought(source.captions)

        def captions_of(row: PictureEntry) -> list[bytes | None]:
            return [_first(root, stem(row), extensions) for extensions in wanted]

        def fields_of(row: PictureEntry) -> dict | None:
            return json_fields(_first(root, stem(row), (SIDECAR,)))

        def mask_path(row: PictureEntry) -> str:
            return mask_of(row.name, source.mask)

        rows = (PictureEntry(name, name) for name in picture_names(root, left_out, source.mask))
        where = places(source.captions)
        alpha = source.mask == ALPHA
        in_files = bool(source.mask) and not alpha
        beside = Beside(captions_of, fields_of, mask_path if in_files else None, alpha)
        super().__init__(root, rows, beside, source.captions, source, data, left_out, where)


def stem(row: PictureEntry) -> str:
    """A picture's path without its extension."""
    return row.name.rpartition(".")[0]


def picture_names(root: Path, left_out: LeftOut, mask: str = "") -> list[str]:
    """The pictures' paths below a folder, sorted, with "/" on every system.

    Args:
        mask: as the source names masks, which are no pictures.
    """
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(folder).relative_to(root)
        for name in filter(lambda name: (Path(folder) / name).is_symlink(), folders):
            left_out.add(LINKED, printable((below / name).as_posix()))
        for name in sorted(name for name in files if not name.startswith(".")):
            extension = os.path.splitext(name)[1].lower()
            if is_mask(name, mask):
                continue
            if is_picture(extension):
                names.append((below / name).as_posix())
            elif reason := unread_format(extension):
                left_out.add(reason, printable((below / name).as_posix()))
    return sorted(names)


def _first(root: Path, stem: str, extensions: tuple[str, ...]) -> bytes | None:
    """The first of a picture's caption files that is there; its extension may be in capitals."""
    for extension in (e for lower in extensions for e in (lower, lower.upper())):
        try:
            return (root / f"{stem}.{extension}").read_bytes()
        except OSError:
            continue
    return None
