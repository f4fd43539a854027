"""Copies of an LLM with some of its files changed, for comparisons."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from lidit_core.llm.gguf.convert import NOTE
from lidit_core.llm.gguf.tokenizer import CHECKED
from lidit_core.llm.hub import model_folder
from lidit_core.llm.locate import locate

MakeFile = Callable[[Path, Path], None]  # writes the second file, made of the first


def write_copy(source: str, folder: Path, changes: Mapping[str, MakeFile]) -> None:
    """Write an LLM's model folder anew, where there is none at that place.

    What an LLM notes of the GGUF that it was made of is left out: the copy is another LLM.

    Args:
        source: the LLM's name or folder.
        changes: by the end of a file's name; other files stay as they are.
    """
    if folder.exists():
        return
    known, beside = model_folder(locate(source)), folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for file in sorted(known.iterdir()):
        if file.suffix != ".gguf" and file.name not in (NOTE, CHECKED) and file.is_file():
            fitting = (change for end, change in changes.items() if file.name.endswith(end))
            next(fitting, shutil.copyfile)(file, beside / file.name)
    beside.rename(folder)
