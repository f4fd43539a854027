"""The LLMs that an evaluation reads by, known by what they hold, so that no two are ever mixed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from lidit_core.branches import choose_llms
from lidit_core.bridge.file import read_bridge_config
from lidit_core.bridged import is_bridge, llms_beside
from lidit_core.checkpoints.lidit import read_config
from lidit_core.errors import LiDiTError
from lidit_core.io.hashes import sha256
from lidit_core.llm.hashes import read_hashes, shown_hashes
from lidit_core.llmdiff.file import read_adapter_config
from lidit_core.shipped import find_model

from .bridge_drawer import bridge_sources
from .drawers import adapter_source, model_file


def llms_read(args: argparse.Namespace) -> dict[str, str]:
    """Find the sources of the LLMs that a command line of `lidit eval` reads by, by their names."""
    if args.adapter:
        spec = read_adapter_config(model_file(args.adapter)).llm
        return {spec.name: adapter_source(args.llm, spec)}
    if args.bridge:
        path = model_file(args.bridge)
        return bridge_sources(path, read_bridge_config(path), args.llm)
    path, named = find_model(args.model)
    config = read_config(path)
    chosen = choose_llms(config, args.llm, named)
    return {config.llms[branch].name: source for branch, source in chosen.items()}


def told_hashes(sources: Mapping[str, str], device: str) -> dict[str, str]:
    """The hashes of LLMs, as records and reports have them; one that is not here is left out.

    Args:
        device: where they are read.
    """
    found = {}
    for name, source in sources.items():
        if is_bridge(source):
            found |= _bridged(name, Path(source).expanduser(), device)
            continue
        try:
            found[name] = shown_hashes(read_hashes(source, device))
        except LiDiTError:  # of which drawing tells, where pictures are missing
            continue
    return found


def _bridged(name: str, path: Path, device: str) -> dict[str, str]:
    """The hashes of a bridge that writes an LLM's states, and of the LLMs that it reads."""
    config = read_bridge_config(path)
    beside = llms_beside(path, config)
    sources = {llm.name: beside.get(llm.name, llm.name) for llm in config.llms}
    students = told_hashes(sources, device)
    read = {f"{student}, for {name}": told for student, told in students.items()}
    return {name: f"{path.name} ({sha256(path)[:12]})", **read}
