"""What any CLIP of the host makes of many prompts, recorded into the output folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import folder_paths

from ..lidit_core.errors import check
from ..lidit_core.io.conditioning import Entry
from ..lidit_core.io.prompts import read_prompts
from ..lidit_core.io.recording import Recording, record
from .encoded_prompts import storable
from .folders import plain_name

FOLDER = "recordings"  # below the output folder


def prompt_files() -> list[str]:
    """The text files of the input folder."""
    folder = Path(folder_paths.get_input_directory())
    return sorted(path.name for path in folder.glob("*.txt"))


def listed_prompts(file: str) -> list[str]:
    """The lines of a file of the input folder.

    Raises:
        LiDiTError: it is missing or empty.
    """
    return read_prompts(Path(folder_paths.get_input_directory()) / plain_name(file))


def record_prompts(
    clip: Any, prompts: Sequence[str], name: str, on_prompt: Callable[[int], Any]
) -> Recording:
    """Record what a CLIP makes of prompts, or go on with a recording that was stopped.

    Raises:
        LiDiTError: the folder of that name holds another recording.
    """
    plain = plain_name(name).strip("/ ")
    check(bool(plain), "the recording has no name; write one, which is its folder's")
    folder = Path(folder_paths.get_output_directory()) / FOLDER / plain

    def encode(text: str) -> list[Entry]:
        entries = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return [(sequence, storable(values)) for sequence, values in entries]

    about = {"encoder": type(clip.cond_stage_model).__name__}
    return record(encode, prompts, folder, about, on_prompt)
