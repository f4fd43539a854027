"""Files that a comparison of bridges is made of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.llm.hub import model_folder
from lidit_core.llm.locate import locate

SEED = 0  # of random weights
WEIGHTS = ".safetensors"


def write_ridge(whole: Path, path: Path) -> None:
    """Write a bridge's base alone, without what it has learnt beside it."""
    loaded = load_bridge(whole)
    bridge = Bridge(replace(loaded.bridge.config, residual="none"))
    known = loaded.bridge.state_dict()
    bridge.load_state_dict({name: known[name] for name in bridge.state_dict()})
    told = json.loads(loaded.report or "{}")
    report = json.dumps({"bridge": told["ridge"]}) if "ridge" in told else ""
    write_bridge(path, LoadedBridge(bridge.eval(), loaded.rows, loaded.empty, report))


def write_random_llm(source: str, folder: Path) -> None:
    """Write an LLM of another one's sizes and tokenizer, where there is none in the folder.

    Every matrix has random numbers of its own deviation; norms and biases stay.
    """
    if folder.exists():
        return
    known, beside = model_folder(locate(source)), folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    chance = torch.Generator().manual_seed(SEED)
    for file in sorted(known.iterdir()):
        if file.suffix == WEIGHTS:
            tensors, notes = read_safetensors(file)
            made = {name: _random(tensor, chance) for name, tensor in tensors.items()}
            write_safetensors(beside / file.name, made, notes)
        elif file.suffix != ".gguf" and file.is_file():
            shutil.copyfile(file, beside / file.name)
    beside.rename(folder)


def _random(tensor: Tensor, chance: torch.Generator) -> Tensor:
    if tensor.ndim < 2:
        return tensor
    deviation = tensor.float().std()
    return (torch.randn(tensor.shape, generator=chance) * deviation).to(tensor.dtype)
