"""What a run was asked for, kept in its folder, so that no two are ever mixed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing
from lidit_core.llm.hashes import LLMHashes, other_part, read_hashes, shown_hashes

ASKED = "asked.json"
LLMS = "llms"  # hashes of each LLM that a run reads, by its name; runs of before have none


def hashes_of(
    names: Iterable[str], sources: Mapping[str, str], device: str
) -> dict[str, LLMHashes]:
    """The hashes of LLMs on this machine, and the dtype in which they are read.

    Args:
        sources: where LLMs are that are not found under their names.
        device: where they are read.
    """
    return {name: read_hashes(sources.get(name, name), device) for name in sorted({*names})}


def agree(folder: Path, asked: Mapping[str, Any]) -> None:
    """Keep what a folder's run is asked for, or refuse another.

    Raises:
        LiDiTError: the folder holds a run that was asked for something else.
    """
    path, text = folder / ASKED, json.dumps(asked, sort_keys=True, indent=1)
    if path.exists():
        kept, now = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        _agree_on_llms(folder, kept.get(LLMS, {}), now.get(LLMS, {}))
        for key in sorted({*kept, *now} - {LLMS}):
            if kept.get(key) != now.get(key):
                raise LiDiTError(
                    f"{folder} holds a run with another {key.replace('_', ' ')} than is asked for "
                    "now; name another folder with --out, or delete this one"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def _agree_on_llms(
    folder: Path, kept: Mapping[str, LLMHashes], now: Mapping[str, LLMHashes]
) -> None:
    for name in kept.keys() & now.keys():
        part = other_part(kept[name], now[name])
        if part:
            raise LiDiTError(
                f"{folder} holds a run that read the LLM {name} with other {part}, "
                f"{shown_hashes(kept[name])}, than is found now, {shown_hashes(now[name])}; say "
                f"where that LLM is with --llm {name}=FOLDER, name another folder with --out, or "
                "delete this one"
            )


def read_llms(folder: Path) -> Mapping[str, LLMHashes]:
    """The hashes of the LLMs that a run read; {} where they were not recorded."""
    return json.loads((folder / ASKED).read_text(encoding="utf-8")).get(LLMS, {})
