"""An adapter's file under the host's memory manager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ...lidit_core.llmdiff.adapter import LLMDiffAdapter
from ...lidit_core.llmdiff.config import AdapterConfig
from ...lidit_core.llmdiff.file import read_adapter
from ..llm.weights import move_the_rest

STORED = (torch.float32, torch.bfloat16, torch.float16)  # others become the first


@dataclass(frozen=True)
class Gates:
    """What the layers' gates are, known before any step."""

    added: frozenset[int]  # layers whose a2 is not 0
    base: tuple[float, ...]  # a1 e^b1 of every layer


def gates_of(weights: Mapping[str, Tensor], layers: int) -> Gates:
    """Read the gates off an adapter's weights."""

    def numbers(name: str) -> Tensor:
        return torch.cat([weights[f"layers.{i}.{name}"].double() for i in range(layers)])

    opened = numbers("a2").nonzero().flatten().tolist()
    return Gates(frozenset(opened), tuple((numbers("a1") * numbers("b1").exp()).tolist()))


@torch.inference_mode(False)
def open_adapter(path: str | Path) -> tuple[comfy.model_patcher.ModelPatcher, Gates]:
    """The adapter for the host to load, and its gates.

    Raises:
        LiDiTError: it is another kind of file, or damaged.
    """
    config, weights = read_adapter(path)
    patcher = _patcher(config, weights)
    patcher.cached_patcher_init = (_patcher_of, (path,))
    return patcher, gates_of(weights, len(config.layers))


def _patcher_of(path: str | Path, disable_dynamic: bool = False):
    """The same adapter afresh, for hosts that need a copy of the weights."""
    return _patcher(*read_adapter(path), disable_dynamic)


def _patcher(
    config: AdapterConfig, weights: Mapping[str, Tensor], disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """Checked weights; the host keeps them in the dtype of the file."""
    dtype = comfy.utils.weight_dtype(dict(weights))
    dtype = dtype if dtype in STORED else STORED[0]
    adapter = LLMDiffAdapter(config, comfy.ops.manual_cast, dtype).eval().requires_grad_(False)
    kind = comfy.model_patcher.ModelPatcher
    if not disable_dynamic:
        kind = getattr(comfy.model_patcher, "CoreModelPatcher", kind)
    patcher = kind(
        adapter,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )
    dynamic = hasattr(patcher, "is_dynamic") and patcher.is_dynamic()
    adapter.load_state_dict({k: w.to(dtype) for k, w in weights.items()}, assign=dynamic)
    for part in (adapter.langevin, adapter.norm):  # an LLM's states exceed float16
        if part is not None:
            part.float()
    if hasattr(management, "archive_model_dtypes"):
        management.archive_model_dtypes(adapter)
    patcher.add_callback(CallbacksMP.ON_LOAD, _loaded)
    return patcher


def _loaded(patcher, device: torch.device, *_) -> None:
    """The host has loaded weights, perhaps not all of them; gates and the like are no layers."""
    move_the_rest(patcher.model, device)
