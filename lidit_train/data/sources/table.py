"""Pictures that the rows of a table name, captions in its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lidit_core.errors import LiDiTError, listed

from . import LeftOut
from .files import PictureFiles
from .filters import Filters
from .looking import Beside, PictureEntry
from .masks import ALPHA
from .reading import LEAVES, climbs, printable
from .rows import TABLES, read_columns, read_rows

if TYPE_CHECKING:
    from ...recipe import Data, Source

IMAGE_COLUMNS = ("file_name", "image", "path")  # looked for in this order
CAPTION_COLUMNS = ("text", "caption", "prompt", "title")


class TableSource(PictureFiles):
    """A JSON lines, CSV or parquet file beside its pictures, in the order of its rows.

    ``path`` may be the folder of a ``metadata.jsonl`` (or the like). The keys of ``captions`` are
    columns; where a recipe leaves them out and no column is called txt, the first of text,
    caption, prompt and title is read. A row's path is below the table's folder.
    """

    def __init__(self, source: Source, data: Data):
        table, left_out = table_file(Path(source.path)), LeftOut()
        columns = read_columns(table)
        image = _image_column(source, table, columns)
        weights = _caption_columns(source, table, columns)
        fields = Filters.of(source).fields
        for column in fields:
            _first((column,), columns, f"table {table} has no column of numbers")
        masks = "" if source.mask == ALPHA else source.mask
        if masks:
            _first((masks,), columns, f"table {table} has no column of the masks' paths")
        rows = _rows(table, image, list(weights), fields, masks, left_out)
        places = f"column {' and '.join(weights)}"
        beside = Beside(
            lambda row: row.captions,
            lambda row: row.fields,
            (lambda row: row.mask) if masks else None,
            source.mask == ALPHA,
        )
        super().__init__(table.parent, rows, beside, weights, source, data, left_out, places)


def table_file(path: Path) -> Path:
    """The table itself, or that of a folder."""
    if not path.is_dir():
        return path
    for suffix in TABLES:
        if (path / f"metadata{suffix}").is_file():
            return path / f"metadata{suffix}"
    raise LiDiTError(
        f"folder {path} has no metadata.jsonl, .json, .csv or .parquet; name the table itself"
    )


def _rows(
    table: Path,
    image: str,
    captions: list[str],
    others: Sequence[str],
    masks: str,
    left_out: LeftOut,
) -> Iterator[PictureEntry]:
    columns = dict.fromkeys([image, *captions, *others, *filter(None, [masks])])
    for label, fields in read_rows(table, list(columns)):
        name = None if fields is None else fields.get(image)
        if fields is None:
            left_out.add("is on a line that is no JSON object", label)
        elif not isinstance(name, str) or not name:
            left_out.add("has no path", label)
        elif climbs(name):
            left_out.add(LEAVES, printable(f"{label}: {name}"))
        else:
            texts = [fields.get(column) for column in captions]
            texts = tuple(text if isinstance(text, str) else None for text in texts)
            numbers, mask = {n: fields.get(n) for n in others}, fields.get(masks)
            mask = mask.replace("\\", "/") if isinstance(mask, str) else ""
            row = PictureEntry(name.replace("\\", "/"), f"{label}: {name}", texts, numbers, mask)
            if climbs(mask) and mask:
                left_out.add(LEAVES, printable(f"{label}: {mask}"))
            else:
                yield row


def _image_column(source: Source, table: Path, columns: Sequence[str]) -> str:
    wanted = (source.image,) if source.image else IMAGE_COLUMNS
    return _first(wanted, columns, f"table {table} has no column of the pictures' paths")


def _caption_columns(source: Source, table: Path, columns: Sequence[str]) -> dict[str, float]:
    what = f"table {table} has no column of captions"
    if source.captions == {"txt": 1.0} and "txt" not in columns:
        return {_first(CAPTION_COLUMNS, columns, what): 1.0}
    for column in source.captions:
        _first((column,), columns, what)
    return source.captions


def _first(wanted: Sequence[str], columns: Sequence[str], what: str) -> str:
    for column in wanted:
        if column in columns:
            return column
    raise LiDiTError(
        f"{what} called {' or '.join(wanted)}; name one of its columns, "
        f"{listed(map(printable, columns), 20) or 'of which there are none'}"
    )
