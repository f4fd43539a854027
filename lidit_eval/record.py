"""What an evaluation was made of, kept beside its pictures, so that no two are ever mixed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing

NAME = "evaluation.json"
FREE = ("lidit",)  # fields that may differ when an evaluation goes on


def begin(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record, or go on where the folder's is the same.

    Raises:
        LiDiTError: the folder holds another evaluation.
    """
    kept = read_record_of(folder) if (folder / NAME).exists() else None
    if kept is not None:
        for key in sorted({*kept, *record} - {*FREE}):
            if kept.get(key) != record.get(key):
                raise LiDiTError(
                    f"{folder} holds an evaluation with {key}={kept.get(key)!r}, and this one has "
                    f"{record.get(key)!r}; name another folder with --out"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / NAME) as beside:
        beside.write_text(json.dumps(dict(record), indent=1) + "\n", encoding="utf-8")


def read_record_of(folder: Path) -> dict[str, Any]:
    """The record of an evaluation's folder."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise LiDiTError(
            f"{folder} holds no evaluation ({error}); expected a folder that `lidit eval` wrote"
        ) from error
