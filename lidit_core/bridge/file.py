"""A bridge's file: one safetensors whose metadata is the whole configuration.

Beside the weights it holds the teacher's tokenizer and the conditioning of the empty prompt as the
teacher gave it, since guidance subtracts that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LiDiTError, check
from ..io.conditioning import Entry, pack_entry, unpack_entry
from ..io.tensors import (
    Shape,
    check_finite,
    check_sizes,
    check_tensors,
    opened,
    read_safetensors,
    shapes_in,
    shapes_of,
    write_safetensors,
)
from ..io.terms import terms_for, tokenizer_terms
from .base import base_shapes
from .config import SEEDS, BridgeConfig
from .layout import AnyRows
from .model import Bridge
from .rows import TEXT
from .teacher import TOKENIZER, packed_rows, unpacked_rows

BRIDGE_KEY, EMPTY_KEY, REPORT = "lidit-bridge", "empty", "report"  # of the metadata
STAGES = "stages"  # there too
EMPTY = "empty"  # the beginning of tensors' names


@dataclass(frozen=True)
class LoadedBridge:
    """A bridge, ready to write conditioning."""

    bridge: Bridge
    rows: AnyRows
    empty: Entry  # of the empty prompt, as the teacher gave it
    report: str = ""  # JSON: how well it was measured to do on prompts that were held out
    stages: str = ""  # JSON: of its training, in order; "" = from a recording alone

    def is_empty(self, prompt: str) -> bool:
        """Whether the teacher reads no character of a prompt, so that no LLM need read it."""
        return not bool((self.rows(prompt).kinds == TEXT).any())


def write_bridge(
    path: str | Path, loaded: LoadedBridge, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a bridge.

    Args:
        weights: in place of its own.
    Raises:
        LiDiTError: some weight is not finite, or the file cannot be written.
    """
    weights = dict(loaded.bridge.state_dict() if weights is None else weights)
    check_finite(weights, path)
    kept, empty = pack_entry(loaded.empty, EMPTY)
    tensors = {**weights, **packed_rows(loaded.rows), **kept}
    metadata = {BRIDGE_KEY: loaded.bridge.config.to_json(), EMPTY_KEY: empty, REPORT: loaded.report}
    if loaded.stages:
        metadata[STAGES] = loaded.stages
    config = loaded.bridge.config
    metadata |= terms_for([*config.teacher.known_as, *(llm.name for llm in config.llms)])
    metadata |= tokenizer_terms(config.teacher.tokenizers or [config.teacher.name])
    write_safetensors(path, tensors, metadata)


def read_bridge_config(path: str | Path) -> BridgeConfig:
    """The configuration of a bridge whose tensors have its sizes; no weight is read."""
    with opened(path) as file:
        config = _config(file.metadata() or {}, path)
        _check_bridge_sizes(config, _own(shapes_in(file)), path)
        return config


def load_bridge(path: str | Path, device: torch.device | str = "cpu") -> LoadedBridge:
    """A bridge with its weights, computing in float32.

    Raises:
        LiDiTError: it is another kind of file, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    config, what = _config(metadata, path), f"the bridge {path}"
    own = _own(tensors)
    _check_bridge_sizes(config, shapes_of(own), path)
    bridge = Bridge(config, device="meta")
    check_tensors(own, bridge.state_dict(), what)
    kept = {k: v if k.endswith(".seeds") else v.float() for k, v in own.items()}
    bridge.load_state_dict(kept, assign=True)
    rows = unpacked_rows(config.teacher.layouts, tensors, path)
    empty = unpack_entry(metadata.get(EMPTY_KEY, ""), tensors, path)
    told = metadata.get(REPORT, ""), metadata.get(STAGES, "")
    loaded = LoadedBridge(bridge.eval().to(device), rows, empty, *told)
    _check_empty(loaded, path)
    return loaded


def _own(tensors: Mapping[str, Tensor] | Mapping[str, Shape]) -> dict:
    """The tensors of the bridge itself, without the tokenizer and what the empty prompt gave."""
    beside = (TOKENIZER, EMPTY)
    return {k: v for k, v in tensors.items() if k.partition(".")[0] not in beside}


def _check_empty(loaded: LoadedBridge, path: str | Path) -> None:
    """The empty prompt's conditioning has the rows and widths that the bridge writes."""
    spec, sequence = loaded.bridge.config.teacher, loaded.empty[0]
    expected = (1, len(loaded.rows("").ids), spec.width)
    check(
        tuple(sequence.shape) == expected,
        f"the bridge {path} keeps the empty prompt as {tuple(sequence.shape)}; expected "
        f"{expected}: fetch or copy it again",
    )


def _check_bridge_sizes(config: BridgeConfig, found: Mapping[str, Shape], path) -> None:
    """Refuse a configuration whose sizes are not those of the tensors, before it is built."""
    teacher, attention = config.teacher, config.residual == "attention"
    lists = {
        "reader.linguistic.": config.branches if attention else 0,
        "resampler.blocks.": config.blocks if attention else 0,
    }
    for i in range(config.branches if attention else 0):
        lists[f"reader.linguistic.{i}.blocks."] = config.refiner_blocks
    joint = config.collaborative_blocks if attention and config.branches > 1 else 0
    lists["reader.collaborative.branches.0."] = joint
    some: dict[str, Shape] = {f"base.{k}": shape for k, shape in base_shapes(config).items()}
    if attention and config.seeds == "pca":
        some["resampler.queries.seeds"] = (teacher.vocabulary, SEEDS)
    if attention and config.seeds == "trained":
        some["resampler.queries.table.weight"] = (teacher.vocabulary, SEEDS)
    if attention:
        some["resampler.out.weight"] = (teacher.width, config.width)
    if config.residual == "mlp":
        some["mlp.out.weight"] = (teacher.width, 4 * config.width)
    check_sizes(found, lists, some, f"the bridge {path}")


def _config(metadata: Mapping[str, str], path: str | Path) -> BridgeConfig:
    if BRIDGE_KEY not in metadata:
        raise LiDiTError(
            f"{path} is no bridge; expected a file that `lidit train` wrote with trains: bridge"
        )
    return BridgeConfig.from_json(metadata[BRIDGE_KEY])
