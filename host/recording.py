"""What any CLIP of the host makes of many prompts, recorded into the output folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import folder_paths

from ..lidit_core.bridge.teacher import write_teacher
from ..lidit_core.errors import LiDiTError, check, shown
from ..lidit_core.io.conditioning import Entry
from ..lidit_core.io.prompts import read_prompts
from ..lidit_core.io.recording import Encode, Recording, open_recording, record
from .bridge.teacher import HostTeacher, teacher_of
from .encoded_prompts import storable
from .folders import entries_of, plain_name
from .node_notes import note

FOLDER = "recordings"  # below the output folder
NO_BRIDGE = "no bridge can be trained from this recording: {}"
NONE = "(put a .txt file of prompts into the input folder)"


def prompt_files() -> list[str]:
    """The text files of the input folder; never empty."""
    files = entries_of(Path(folder_paths.get_input_directory()))
    return [file.name for file in files if file.suffix == ".txt" and os.path.isfile(file)] or [NONE]


def listed_prompts(file: str) -> list[str]:
    """The lines of a file of the input folder.

    Raises:
        LiDiTError: it is missing or empty.
    """
    check(
        file != NONE,
        "there is no file of prompts yet; put a .txt file with one prompt a line into ComfyUI's "
        "input folder, press R and choose it from the list",
    )
    return read_prompts(Path(folder_paths.get_input_directory()) / plain_name(file))


def record_prompts(
    clip: Any, prompts: Sequence[str], name: str, on_prompt: Callable[[int], Any]
) -> Recording:
    """Record what a CLIP makes of prompts, or go on with a recording that was stopped.

    Raises:
        LiDiTError: the folder of that name holds another recording.
    """
    folder = _folder(name)

    def encode(text: str) -> list[Entry]:
        entries = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return [(sequence, storable(values)) for sequence, values in entries]

    about = {"encoder": type(clip.cond_stage_model).__name__}
    teacher = _teacher(clip, encode)  # before what may take hours
    made = record(encode, prompts, folder, about, on_prompt)
    if teacher is not None:
        _write_teacher(made, teacher, prompts)
    return made


def fingerprint(prompts: str | None, name: str | None) -> str:
    """A value that changes when the prompts do, or when files of the recording are gone.

    Without it the host would hold a node that ran for done, and run none of what changed on disk.
    """
    if prompts is None or name is None:  # another node gives it, at which the host looks
        return ""
    try:
        stat = os.stat(Path(folder_paths.get_input_directory()) / plain_name(prompts))
        return f"{stat.st_size} {stat.st_mtime_ns} {open_recording(_folder(name)).missing()}"
    except (LiDiTError, OSError, ValueError) as error:
        return type(error).__name__


def _folder(name: str) -> Path:
    """The folder of a recording.

    Raises:
        LiDiTError: the name is none, or leads out of the recordings.
    """
    plain = plain_name(name).strip("/ ")
    check(bool(plain), "the recording has no name; write one, which is its folder's")
    return Path(folder_paths.get_output_directory()) / FOLDER / plain


def _teacher(clip: Any, encode: Encode) -> HostTeacher | None:
    """What a bridge has to know of a CLIP; None, and on the node why, where it cannot learn."""
    try:
        return teacher_of(clip, encode)
    except LiDiTError as error:
        note(NO_BRIDGE.format(error))
        return None


def _write_teacher(made: Recording, known: HostTeacher, prompts: Sequence[str]) -> None:
    """Say beside a recording what a bridge has to know of the CLIP, or on the node why not."""
    try:
        teacher = known.of(prompts)
    except LiDiTError as error:
        note(NO_BRIDGE.format(error))
        return
    write_teacher(made.folder, teacher)
    if teacher.unread:
        note(
            f"{len(teacher.unread)} of {made.count} prompts hold weights, as (word:1.3), embeddings"
            f" or letters that are read otherwise ({shown(prompts[teacher.unread[0]])} first): a "
            "bridge does not learn from those"
        )
