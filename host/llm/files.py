"""The LLMs and instruction templates that there are: in the host's folders, then the user cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...lidit_core.errors import LiDiTError, listed, shown
from ...lidit_core.llm.demo_llms import DEMO_LLMS, SMOLLM2
from ...lidit_core.llm.listing import file_serves, gguf_serves
from ...lidit_core.llm.locate import check_present, installed_llms, locate, package_parts
from ...lidit_core.paths import files_like, llm_folder
from ...lidit_core.text.prompt_encoder import file_identity
from ...lidit_core.text.templates import PRESETS, SUFFIXES, InstructionTemplate, read_template
from ..folders import LLMS, TEMPLATES, entries_of, files_below, plain_name, stats_of

ALSO = ("LLM", "text_encoders", "clip")  # where other packs keep LLMs
DEPTH = 4  # folders below a model folder that are looked into
CONVERTED = re.compile(r"-[0-9a-f]{8}$")  # the cache's copy of a GGUF file, known by that file
QUANTISED = re.compile(r"[.-](I?Q\d\w*|BF16|F16|F32|FP8\w*)$", re.IGNORECASE)


def model_name(file: str) -> str:
    """The LLM's own name: a GGUF file's without its quantisation."""
    return QUANTISED.sub("", file)


def llm_choices() -> list[str]:
    """What a combo offers; the demo LLMs always, whose absence is told when they are run."""
    return list(dict.fromkeys([*_llms(), *(llm.name for llm in DEMO_LLMS)]))


def is_here(name: str) -> bool:
    """Whether an LLM of `llm_choices` is on this machine."""
    return plain_name(name) in _llms()


def llm_source(name: str) -> str:
    """What `locate` takes for an LLM of `llm_choices`.

    Raises:
        LiDiTError: there is none of this name; for a demo LLM with the line to paste.
    """
    name, known = plain_name(name), _llms()
    if name in known:
        return known[name]
    for file in (folder / name for folder in _folders() if ".." not in Path(name).parts):
        if file.suffix.lower() in (".gguf", ".safetensors") and file.is_file():
            return str(file)  # not offered: why it cannot serve is told at its load
    if any(name == llm.name for llm in DEMO_LLMS):
        check_present(name)
    raise LiDiTError(
        f"the LLM {shown(name)} is not on this machine; put its model folder, GGUF or safetensors "
        f"file into {folder_paths.get_folder_paths(LLMS)[0]}, or choose one of "
        f"{listed(llm_choices())}"
    )


def llm_fingerprint(name: str) -> list:
    """A value that changes when the LLM's files do, not when its GGUF is fetched or converted.

    Of an LLM that is not here, which is told when it is loaded, it is its name.
    """
    demo = next((llm for llm in DEMO_LLMS if llm.name == name), None)
    try:
        source = llm_source(name)
    except LiDiTError:
        return [demo.sha256 if demo else name]
    if demo and source == name and demo.target.is_file():
        whole = demo.target.stat().st_size == demo.size
        return [demo.sha256] if whole else stats_of([demo.target])
    if demo and source == name and (parts := package_parts(demo)):
        return stats_of(parts)
    folder = llm_folder(source) if source == name else Path(source)
    ggufs = [folder] if folder.suffix.lower() == ".gguf" else files_like(folder, "*.gguf")
    if not ggufs:
        return file_identity(locate(source))
    return stats_of(ggufs)


def template_choices() -> list[str]:
    """The presets, then the files in the host's folder for templates."""
    return [*PRESETS, *_templates()]


def template_file(name: str) -> Path | None:
    """The file behind a choice; None for a preset.

    Raises:
        LiDiTError: there is neither.
    """
    if name in PRESETS:
        return None
    known = _templates()
    if plain_name(name) not in known:
        raise LiDiTError(
            f"no template is named {shown(name)}; put a .json or .txt file into "
            f"{folder_paths.get_folder_paths(TEMPLATES)[0]}, or choose one of "
            f"{listed(template_choices())}"
        )
    return known[plain_name(name)]


def template_named(name: str) -> InstructionTemplate:
    """The template behind a choice."""
    file = template_file(name)
    return PRESETS[name] if file is None else read_template(file)


def _llms() -> dict[str, str]:
    """Every LLM by its name in a workflow, and what `locate` takes for it."""
    found: dict[str, str] = {}
    for folder in _folders():
        for path in (*_llms_in(folder, DEPTH), *_weights_alone(folder)):
            found.setdefault(path.relative_to(folder).as_posix(), str(path))
    for name in sorted(installed_llms(), key=SMOLLM2.name.__ne__):  # a newcomer's comes first
        if not CONVERTED.search(name):
            found.setdefault(name, name)
    return found


def _folders() -> list[Path]:
    """The model folders that may hold LLMs, ours first, each once."""
    # by their places too: another pack may have given the name to a folder of its own alone
    places = [os.path.join(folder_paths.models_dir, name) for name in (LLMS, LLMS.upper())]
    paths = [*folder_paths.get_folder_paths(LLMS), *places]
    for kind in ALSO:
        if kind in folder_paths.folder_names_and_paths:
            paths += folder_paths.get_folder_paths(kind)
    by_place: dict[str, Path] = {}
    for path in paths:
        by_place.setdefault(os.path.normcase(os.path.realpath(path)), Path(path))
    return [path for path in by_place.values() if os.path.isdir(path)]


def _llms_in(folder: Path, depth: int) -> Iterator[Path]:
    """Files that are LLMs, and folders with a configuration, whose faults are told at the load."""
    entries = entries_of(folder)
    for path in entries:
        suffix = path.suffix.lower()
        if suffix == ".gguf" and os.path.isfile(path):
            if gguf_serves(path):
                yield path
        elif suffix == ".safetensors" and os.path.isfile(path):
            if file_serves(path):
                yield path
        elif os.path.isdir(path):
            if path.with_name(path.name + ".safetensors") in entries:
                continue  # it says what that file is
            inside = {each.suffix for each in entries_of(path)}
            weights = ".safetensors" in inside
            if os.path.isfile(path / "config.json") and (weights or ".gguf" not in inside):
                yield path
                if weights:
                    continue
            if depth > 1:
                yield from _llms_in(path, depth - 1)


def _weights_alone(folder: Path) -> list[Path]:
    """Files in a folder for LLMs that lack a configuration, which is told at the load."""
    is_ours = folder.name.lower() == LLMS and not os.path.isfile(folder / "config.json")
    return [path for path in entries_of(folder) if path.suffix == ".safetensors"] if is_ours else []


def _templates() -> dict[str, Path]:
    """Template files by their names in a workflow."""
    found: dict[str, Path] = {}
    for folder in map(Path, folder_paths.get_folder_paths(TEMPLATES)):
        for path in files_below(folder):
            if path.suffix in SUFFIXES:
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found
