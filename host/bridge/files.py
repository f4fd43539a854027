"""Finds bridges, and says what a user is told of one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import torch

from ...lidit_core.bridge.clipproj import LoadedProjection, is_clipproj, load_clipproj
from ...lidit_core.bridge.file import BRIDGE_KEY, LoadedBridge, load_bridge
from ...lidit_core.errors import LiDiTError, shown
from ...lidit_core.io.tensors import opened
from ...lidit_core.llm.blocks import shown_block
from ..folders import BRIDGES, plain_name

SUFFIX = ".safetensors"
NONE = f"(put a {SUFFIX} file into models/{BRIDGES})"

GAP = "text gap kept"  # of a run's figures, in a file's `stages`
Loaded = LoadedBridge | LoadedProjection


def bridges() -> list[str]:
    """The host's files; never empty."""
    names = [name.replace("\\", "/") for name in folder_paths.get_filename_list(BRIDGES)]
    return [name for name in names if name.endswith(SUFFIX)] or [NONE]


def find_bridge(name: str) -> Path:
    """The file of a listed name; names from another system's workflow are understood.

    Raises:
        LiDiTError: the name leads out of the model folders, or no file has it.
    """
    plain = plain_name(name)
    for folder in folder_paths.get_folder_paths(BRIDGES):
        if os.path.isfile(path := Path(folder) / plain):
            return path
    if name == NONE:
        raise LiDiTError(
            f"there is no bridge yet; put a {SUFFIX} file into models/{BRIDGES}, press R and "
            "choose it from the list"
        )
    raise LiDiTError(
        f"no file {shown(name)} in models/{BRIDGES}; put it there and press R, or choose another "
        "from the list"
    )


def fingerprint(name: str | None) -> str:
    """A text that changes when the file does; a name that another node gives is None here."""
    if name is None:
        return ""
    stat = find_bridge(name).stat()
    return repr((name, stat.st_size, stat.st_mtime_ns))


@torch.inference_mode(False)
def open_bridge(name: str) -> Loaded:
    """A bridge, or a projection of the ClipProj format.

    Raises:
        LiDiTError: the file is neither, or damaged.
    """
    path = find_bridge(name)
    if path.suffix.lower() != SUFFIX:
        return load_clipproj(path)  # which says why it does not
    with opened(path) as file:
        ours = BRIDGE_KEY in (file.metadata() or {})
        theirs = is_clipproj(file.keys())
    return load_clipproj(path) if theirs and not ours else load_bridge(path)


def describe_bridge(loaded: Loaded) -> str:
    """What a user wants to know of a bridge, a line each."""
    if isinstance(loaded, LoadedProjection):
        llm, target = loaded.llm, loaded.about.get("target_model", "another LLM")
        return (
            f"ClipProj: {target}'s rows of {loaded.width}, token by token\n"
            f"from {llm.name}, {llm.width} wide, layer {shown_block(llm.block)}, template none"
        )
    config = loaded.bridge.config
    spec = config.teacher
    pooled = f", pooled {spec.pooled}" if spec.pooled else ""
    llms = [
        f"from {llm.name}, {llm.width} wide, layer {shown_block(llm.block)}, template "
        f"{llm.template.name}"
        for llm in config.llms
    ]
    does = "adds to" if config.add else "writes"
    return "\n".join([f"{does} {spec.name}: rows of {spec.width}{pooled}", *llms, *_told(loaded)])


def _told(loaded: LoadedBridge) -> list[str]:
    """What was measured of a bridge, a line each, where its file says so."""
    return [*_cosine(loaded.report), *_gap(loaded.stages)]


def _cosine(report: str) -> list[str]:
    try:
        found = json.loads(report)["bridge"]
        return [
            f"cosine {float(found['cosine']):.3f} on {int(found['prompts'])} prompts that it did "
            "not learn from"
        ]
    except (ValueError, KeyError, TypeError):
        return []


def _gap(stages: str) -> list[str]:
    """The text gap that the last run through a model has kept."""
    try:
        run = [stage for stage in json.loads(stages) if "after" in stage][-1]
        gap = float(run["after"][GAP])
        return [f"through {run['through']} it keeps {gap:.3f} of the text gap"]
    except (ValueError, KeyError, TypeError, IndexError):
        return []


def llms_of(loaded: Loaded) -> tuple:
    """The LLMs that it reads."""
    return (loaded.llm,) if isinstance(loaded, LoadedProjection) else loaded.bridge.config.llms


def module_of(loaded: Loaded) -> torch.nn.Module:
    """The module of a bridge or projection, which the host moves between devices."""
    return loaded.projection if isinstance(loaded, LoadedProjection) else loaded.bridge


def reads_weights(loaded: Loaded) -> bool:
    """Whether the bridge reads weights such as (word:1.3)."""
    return isinstance(loaded, LoadedBridge) and loaded.bridge.config.teacher.weights


def adds(loaded: Loaded) -> bool:
    """Whether the bridge adds to what the checkpoint's own encoder writes, not in its place."""
    return isinstance(loaded, LoadedBridge) and loaded.bridge.config.add


@dataclass(frozen=True)
class Writes:
    """What a bridge writes, for sentences."""

    name: str
    width: int
    pooled: int


def writes_of(loaded: Loaded) -> Writes:
    """The text encoder in whose form a bridge writes."""
    if isinstance(loaded, LoadedProjection):
        return Writes(loaded.about.get("target_model", "another LLM"), loaded.width, 0)
    spec = loaded.bridge.config.teacher
    return Writes(spec.name, spec.width, spec.pooled)
