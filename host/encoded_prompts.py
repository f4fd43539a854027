"""CONDITIONING as files in ComfyUI's folders, so that a machine without the LLM can sample."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ..lidit_core.errors import LiDiTError, check, shown
from ..lidit_core.io.conditioning import (
    EncodedPrompt,
    EncodedPrompts,
    NotStorable,
    write_encoded,
)
from ..lidit_core.model.prompt_text import HIDDEN, NAMES, read_encoded_prompts
from .folders import CONDITIONING, files_below, plain_name
from .keys import LLMDIFF, MODEL_CONDS, HostEntry
from .lidit.conditioning import for_lidit
from .llmdiff.conditioning import for_adapter

IN_OUTPUT = " [output]"  # after the name of a file that a workflow wrote, as the host marks them
SUFFIX = ".safetensors"
NONE = f"(put a file into models/{CONDITIONING})"
LEFT_OUT = ("hooks", "uuid")  # which the host gives entries anew


def save(conditioning: list[HostEntry], prefix: str) -> Path:
    """Write conditioning below the output folder, under the next free number of a prefix.

    Raises:
        LiDiTError: it holds what no file does, such as a ControlNet, or the prefix leads elsewhere.
    """
    folder, name, counter = _place(prefix.replace("\\", "/"))  # a workflow may be of Windows
    path = Path(folder) / f"{name}_{counter:05}_{SUFFIX}"
    while path.exists():  # the host counts pictures alone
        counter += 1
        path = Path(folder) / f"{name}_{counter:05}_{SUFFIX}"
    entries = [(sequence, storable(values)) for sequence, values in conditioning]
    try:
        write_encoded(path, EncodedPrompts([EncodedPrompt(entries)]))
    except NotStorable as error:
        raise LiDiTError(
            f"the conditioning cannot be saved, for {error}; save it before the node that adds "
            "this (ControlNet, hooks and the like), and add that after loading"
        ) from error
    return path


def _place(prefix: str) -> tuple[str, str, int]:
    """Folder, beginning of the name, and the next number by the host's count."""
    try:
        return folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())[:3]
    except OSError:
        raise
    except Exception as error:  # the host's own, of several lines
        raise LiDiTError(
            f"filename_prefix is {shown(prefix)}, which leads out of the output folder; expected a "
            "name in it, such as conditioning/prompt"
        ) from error


def storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an entry that a file holds, and that are not made anew with each entry.

    Raises:
        LiDiTError: hooks are among them.
    """
    check(
        not values.get("hooks"),
        "the conditioning cannot be saved with hooks, which no file holds; save it before they "
        "are set, and set them after loading",
    )
    return {k: v for k, v in values.items() if k not in (*LEFT_OUT, MODEL_CONDS)}


def load(name: str) -> list[HostEntry]:
    """Read the conditioning of a listed file.

    Raises:
        LiDiTError: it is not there, or none.
    """
    encoded = read_encoded_prompts(find(name))
    check(
        len(encoded.prompts) == 1,
        f"{name} holds {len(encoded.prompts)} prompts; expected one, as Save Conditioning writes",
    )
    return [[sequence, _completed(dict(values))] for sequence, values in encoded.prompts[0].entries]


def _completed(values: dict[str, Any]) -> dict[str, Any]:
    """The values and what no file holds: that a model which reads none of them says so."""
    if LLMDIFF in values:
        values[MODEL_CONDS] = for_adapter(values)
    elif HIDDEN in values and isinstance(values.get(NAMES), Mapping):
        values[MODEL_CONDS] = for_lidit(values[NAMES].values())
    return values


def choices() -> list[str]:
    """The files of models/conditioning, then those saved into output/conditioning; never empty."""
    names = folder_paths.get_filename_list(CONDITIONING)
    given = [name.replace("\\", "/") for name in names]  # a workflow is opened on every system
    output = Path(folder_paths.get_output_directory())
    saved = [file for file in files_below(output / CONDITIONING) if file.suffix == SUFFIX]
    names = [*given, *(path.relative_to(output).as_posix() + IN_OUTPUT for path in saved)]
    return names or [NONE]


def find(name: str) -> Path:
    """The file of a listed name.

    Raises:
        LiDiTError: there is none of this name.
    """
    check(
        name != NONE,
        f"there is no encoded prompt yet; save one with Save Conditioning, or put one into "
        f"models/{CONDITIONING}, press R and choose it from the list",
    )
    plain = plain_name(name)
    if plain.endswith(IN_OUTPUT):
        path = Path(folder_paths.get_output_directory()) / plain.removesuffix(IN_OUTPUT)
    else:
        path = Path(folder_paths.get_full_path(CONDITIONING, plain) or "")
    check(
        os.path.isfile(path),
        f"there is no encoded prompt {name!r}; put it into models/{CONDITIONING}, or choose one "
        "that is listed",
    )
    return path


def fingerprint(name: str) -> str:
    """A value that changes when the file does."""
    try:
        status = os.stat(find(name))
        return f"{status.st_mtime_ns} {status.st_size}"
    except (LiDiTError, OSError):
        return name
