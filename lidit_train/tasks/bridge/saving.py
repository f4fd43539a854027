"""What a run has trained, as the bridge that its file holds, and the ridge that it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.file import LoadedBridge, write_bridge
from lidit_core.bridge.model import Bridge

from ...data.caption_states import CaptionReader
from ...loop.longest_prompt import recorded
from .learner import BridgeLearner

RIDGE = "ridge.safetensors"  # in the run's folder


def finished(
    config: BridgeConfig,
    learner: BridgeLearner,
    weights: Mapping[str, Tensor],
    readers: Mapping[int, CaptionReader],
    longest: Mapping[str, int] | None,
) -> tuple[Bridge, dict[str, Tensor]]:
    """The bridge on the CPU, and its tensors as they are written: the base in float32.

    Args:
        weights: the learner's.
        longest: tokens of the longest prompt that each LLM read, by name; None = not known.
    """
    own = {k.removeprefix("bridge."): v for k, v in weights.items() if k.startswith("bridge.")}
    base = {f"base.{k}": v.cpu() for k, v in learner.bridge.base.state_dict().items()}
    tensors = {**own, **base}
    known = {i: reader.fingerprint for i, reader in readers.items()}
    llms = recorded(config.llms, longest, fingerprints=known)
    stored = {i: reader.storage for i, reader in readers.items()}
    llms = tuple(
        replace(spec, storage=stored.get(i) or spec.storage) for i, spec in enumerate(llms)
    )
    bridge = Bridge(replace(config, llms=llms))
    bridge.load_state_dict({k: v.to(bridge.state_dict()[k]) for k, v in tensors.items()})
    return bridge.eval(), tensors


def stages_of(loaded: LoadedBridge) -> list[dict]:
    """What a bridge's file says of its training; of one without a word, a recording alone."""
    return json.loads(loaded.stages or '[{"from": "a recording"}]')


def write_ridge(whole: LoadedBridge, report: str, path: Path) -> None:
    """Write a bridge's ridge as a bridge by itself: what the residual has to beat.

    Args:
        report: JSON: how well it does, under "bridge".
    """
    bridge = Bridge(replace(whole.bridge.config, residual="none"))
    known = whole.bridge.state_dict()
    bridge.load_state_dict({name: known[name] for name in bridge.state_dict()})
    write_bridge(path, LoadedBridge(bridge.eval(), whole.rows, whole.empty, report))
