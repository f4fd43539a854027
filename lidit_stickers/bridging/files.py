"""Files that a comparison of bridges is made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.io.tensors import read_safetensors, write_safetensors

from ..llm_copies import write_copy

SEED = 0  # of random weights


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
    chance = torch.Generator().manual_seed(SEED)

    def with_random_weights(file: Path, beside: Path) -> None:
        tensors, notes = read_safetensors(file)
        made = {name: _random(tensor, chance) for name, tensor in tensors.items()}
        write_safetensors(beside, made, notes)

    write_copy(source, folder, {".safetensors": with_random_weights})


def _random(tensor: Tensor, chance: torch.Generator) -> Tensor:
    if tensor.ndim < 2:
        return tensor
    deviation = tensor.float().std()
    return (torch.randn(tensor.shape, generator=chance) * deviation).to(tensor.dtype)
