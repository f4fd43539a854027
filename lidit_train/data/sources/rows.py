"""The rows of a JSON lines, CSV or parquet file, one after the other."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from lidit_core.errors import LiDiTError, first_line

TABLES = (".jsonl", ".json", ".csv", ".parquet")
FIELD = 2**31 - 1  # characters of a CSV's longest field; the csv module stops at 131,072 by itself

Numbered = tuple[str, "dict | None"]  # "line 7" and its fields; None: the line cannot be read


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Numbered]:
    """Every row of a table by its suffix.

    Args:
        columns: that are asked for; a parquet file reads no others.
    Raises:
        LiDiTError: it cannot be read at all, or not from some row on.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise LiDiTError(
            f"table {path} ends in {path.suffix!r}; expected one of {', '.join(TABLES)}"
        )
    try:
        if suffix == ".parquet":
            yield from _parquet(path, columns)
        else:
            yield from _csv(path) if suffix == ".csv" else _json(path)
    except LiDiTError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's are among them
        raise LiDiTError(
            f"table {path} cannot be read ({first_line(error)}); give a whole "
            f"{path.suffix[1:]} file"
        ) from error


def _json(path: Path) -> Iterator[Numbered]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", _json_object(line)


def _json_object(line: bytes) -> dict | None:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _csv(path: Path) -> Iterator[Numbered]:
    csv.field_size_limit(FIELD)
    # bytes that are not UTF-8 go on as surrogates: the one caption is left out, not the table
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield f"line {reader.line_num}", row


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Numbered]:
    number = 0
    for batch in _parquet_file(path).iter_batches(batch_size=1024, columns=columns):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def _parquet_file(path: Path):
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise LiDiTError(
            f"table {path} needs pyarrow, which is not installed; pip install pyarrow"
        ) from error
    return ParquetFile(path)


def read_columns(path: Path) -> list[str]:
    """Names of a table's columns; of JSON lines those of any line."""
    if path.suffix.lower() == ".parquet" and path.is_file():
        try:
            return _parquet_file(path).schema_arrow.names
        except (OSError, ValueError):
            pass  # read_rows says it in one sentence
    names: dict[str, None] = {}
    for _, row in read_rows(path):
        if row is not None:
            names.update(dict.fromkeys(str(name) for name in row if name is not None))
        if path.suffix.lower() == ".csv":
            break
    return list(names)
