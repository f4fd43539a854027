"""Finds bridges, and says what a user is told of one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ...lidit_core.bridge.clipproj import LoadedProjection, is_clipproj, load_clipproj
from ...lidit_core.bridge.file import BRIDGE_KEY, LoadedBridge, load_bridge
from ...lidit_core.io.tensors import opened
from ...lidit_core.llm.blocks import shown_block
from ..folders import BRIDGES, SUFFIX, find_weights, none_in, weights_in

GAP = "text gap kept"  # of a run's figures, in a file's `stages`
Loaded = LoadedBridge | LoadedProjection


def bridges() -> list[str]:
    """The host's files; never empty."""
    return weights_in(BRIDGES) or [none_in(BRIDGES)]


def find_bridge(name: str) -> Path:
    """The file of a listed name, see `find_weights`."""
    return find_weights(name, BRIDGES, "there is no bridge yet")


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


def parts_pooled(loaded: Loaded) -> bool:
    """Whether rows and pooled vector are two text encoders': FLUX's are of T5, and of CLIP."""
    if not isinstance(loaded, LoadedBridge):
        return False
    spec = loaded.bridge.config.teacher
    return bool(spec.pooled) and len(spec.layouts) == 1 and not spec.layout.window


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
