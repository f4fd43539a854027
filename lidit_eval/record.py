"""What an evaluation was made of, kept beside its pictures, so that no two are ever mixed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing

NAME = "evaluation.json"
LLMS = "llms_read"  # the hashes of LLMs by their names
AUTOENCODER = "autoencoder"  # its file's name and hash
STEP = "step_of_names"  # of pictures made elsewhere, where it is not 1: see `items.step_of_names`
FREE = ("lidit", LLMS, AUTOENCODER)  # fields that may differ when an evaluation goes on
UNKNOWN = "not recorded when the first pictures were drawn"


def begin(folder: Path, record: Mapping[str, Any], drawn: bool) -> dict[str, Any]:
    """Write the record, or go on where the folder's is the same; what is to be told of it.

    Args:
        drawn: whether pictures are there already. The record says which LLMs and autoencoder drew
            them, or, where it is one of before, nothing of that.
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
        _check_llms(folder, kept.get(LLMS, {}), record.get(LLMS, {}))
        _check_autoencoder(folder, kept.get(AUTOENCODER), record.get(AUTOENCODER))
        if drawn:
            known = {key: UNKNOWN for key in (LLMS, AUTOENCODER) if key in record.keys() - kept}
            return {**kept, "lidit": record["lidit"], **known}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / NAME) as beside:
        beside.write_text(json.dumps(dict(record), indent=1) + "\n", encoding="utf-8")
    return dict(record)


def _check_autoencoder(folder: Path, kept: str | None, now: str | None) -> None:
    if kept and now and kept != now:
        raise LiDiTError(
            f"{folder} holds an evaluation that was drawn by the autoencoder {kept}, and {now} is "
            "found now; put that one back, or name another folder with --out"
        )


def _check_llms(folder: Path, kept: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name in sorted(kept.keys() & now.keys()):
        if not now[name].startswith(kept[name]):  # which may not say in which dtype it was read
            raise LiDiTError(
                f"{folder} holds an evaluation that was drawn by the LLM {name} {kept[name]}, and "
                f"{now[name]} is found now; say where that LLM is with --llm {name}=LLM, or name "
                "another folder with --out"
            )


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


def step_of(record: Mapping[str, Any]) -> int:
    """The factor from the numbers in the pictures' names to their prompts' places."""
    return int(record.get(STEP, 1))


def names_of(first: Path, second: Path) -> tuple[str, str]:
    """What tells two evaluations' folders apart: their names, models, or the ends of their paths.

    Only a folder and itself have equal names.
    """
    one, other = first.resolve().parts, second.resolve().parts
    models = [read_record_of(folder).get("model") for folder in (first, second)]
    if one[-1] == other[-1] and all(models) and models[0] != models[1]:
        return str(models[0]), str(models[1])
    ends = ((Path(*one[-n:]), Path(*other[-n:])) for n in range(1, max(len(one), len(other))))
    found = next((pair for pair in ends if pair[0] != pair[1]), (Path(*one), Path(*other)))
    return str(found[0]), str(found[1])
