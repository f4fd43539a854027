"""The recordings that there are, of Record Conditioning."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ....lidit_core.errors import LiDiTError, check, shown
from ....lidit_core.io.recording import NAME
from ...folders import entries_of, plain_name

FOLDER = "recordings"  # below the output folder
NONE = "(record a text encoder with Record Conditioning)"
NOTHING = "none"  # is added to


def recordings() -> list[str]:
    """The recordings' names; never empty."""
    folder = Path(folder_paths.get_output_directory()) / FOLDER
    there = [each.name for each in entries_of(folder) if os.path.isfile(each / NAME)]
    return there or [NONE]


def added_to() -> list[str]:
    """What may be added to: nothing, or what a recording holds."""
    return [NOTHING, *(name for name in recordings() if name != NONE)]


def find_added_to(name: str) -> Path | None:
    """The folder of the recording to be added to; None where the choice is none.

    Raises:
        LiDiTError: there is no such recording.
    """
    return None if name == NOTHING else find_recording(name)


def find_recording(name: str) -> Path:
    """The folder of a listed recording.

    Raises:
        LiDiTError: the name leads out of the recordings, or none has it.
    """
    if name == NONE:
        raise LiDiTError(
            "there is no recording yet; run Record Conditioning with the model's own CLIP and a "
            "file of prompts, press R and choose it from the list"
        )
    folder = Path(folder_paths.get_output_directory()) / FOLDER / plain_name(name)
    check(
        os.path.isfile(folder / NAME),
        f"no recording {shown(name)} in output/{FOLDER}; run Record Conditioning with the model's "
        "own CLIP, press R and choose it from the list",
    )
    return folder
