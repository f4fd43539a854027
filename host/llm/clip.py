"""An LLM as the host's own CLIP: its memory manager moves it, its nodes encode with it.

States come from the library's cache. A prompt that was encoded before does not even have the LLM
moved to the GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.sd
import torch
from comfy import model_management
from comfy.patcher_extension import CallbacksMP
from comfy.supported_models_base import ClipTarget

from ...lidit_core.errors import LiDiTError
from ...lidit_core.llm.blocks import Block, plain_block
from ...lidit_core.llm.loading import default_dtype, expected_bytes, load_llm
from ...lidit_core.llm.locate import locate
from ...lidit_core.text.templates import InstructionTemplate
from ..node_notes import note
from ..patching.clip_patches import WatchedClip, WatchedClipPatches
from ..patching.names import name_weights
from ..patching.patches import check_storage, watch_patches
from .holder import LLMHolder
from .notes import describe_llm, report_prompt
from .plain_text import EMPHASIS, TEMPLATE, PlainText
from .reader import HostCLIP, LLMSettings, PromptReader, reader_of
from .weights import FP8, move_the_rest, names_of_attention, store_in_fp8

DTYPES = ("auto", "float32", "bfloat16", "fp8_e4m3fn")
DEVICES = ("default", "cpu")
NO_LLM = (
    "whose states LI-DiT was not trained on; expected an LLM, so connect the LI-DiT LLM loader, "
    "put LI-DiT LLM from CLIP between if it is one, or use CLIPTextEncode for others"
)


def open_clip(settings: LLMSettings, disable_dynamic: bool = False) -> LLMClip:
    """Load the LLM into RAM as a CLIP; it goes to its device when a prompt has to be encoded.

    Raises:
        LiDiTError: the LLM cannot be found, read or cut after this block.
    """
    options: dict[str, Any] = {}
    device = model_management.text_encoder_device()
    if settings.device == "cpu":
        device = torch.device("cpu")
        options = {"load_device": device, "offload_device": device}
    if settings.dtype == "fp8_e4m3fn":
        check_storage(FP8, device, "dtype")
    holder = _load(settings, device)
    options["dtype"] = holder.llm.dtype
    dynamic = {"disable_dynamic": disable_dynamic}
    known = inspect.signature(comfy.sd.CLIP).parameters  # older hosts have no dynamic patcher
    clip = LLMClip(
        ClipTarget(PlainText, lambda **_: holder),
        model_options=options,
        **{key: value for key, value in dynamic.items() if key in known},
    )
    _prepare(clip.patcher, settings, holder.llm.dtype)
    return clip


def _prepare(patcher, settings: LLMSettings, dtype: torch.dtype) -> None:
    """What an LLM needs of the host's patcher."""
    patcher.cached_patcher_init = (open_patcher, (settings,))
    patcher.set_model_compute_dtype(dtype)
    # All of our layers cast anyway. Told to do so again, the host takes a layer that was loaded
    # before for an offloaded one, and leaves out its LoRA when it offloads it.
    patcher.force_cast_weights = False
    name_weights(patcher, names_of_attention(patcher.model.llm.module))
    watch_patches(patcher, f"the LLM {patcher.model.name}", WatchedClipPatches)
    patcher.add_callback(CallbacksMP.ON_LOAD, _loaded)
    patcher.add_callback(CallbacksMP.ON_DETACH, _unloaded)


def open_patcher(settings: LLMSettings, disable_dynamic: bool = False):
    """The same LLM afresh, for hosts that need a copy of the weights."""
    return open_clip(settings, disable_dynamic).patcher


def describe_before(settings: LLMSettings) -> str:
    """What a user wants to know of an LLM before it is loaded: what it will take.

    A note says where less RAM is free.
    """
    device = (
        torch.device("cpu") if settings.device == "cpu" else model_management.text_encoder_device()
    )
    expected = expected_bytes(
        settings.source, settings.block, compute_dtype(settings.dtype, device)
    )
    if expected is None:
        size = sum(part.stat().st_size for part in locate(settings.source).parts)
        return f"converting its GGUF of {size / 1e6:,.0f} MB, once"
    free = model_management.get_free_memory(torch.device("cpu"))
    if expected > free:
        note(
            f"this LLM takes {expected / 1e6:,.0f} MB and {free / 1e6:,.0f} MB of RAM are free, so "
            "that the machine may come to a halt; close other programs, or choose dtype bfloat16, "
            "a lower layer or a smaller LLM"
        )
    return f"loading {expected / 1e6:,.0f} MB of weights into RAM"


def describe_clip(clip: LLMClip) -> str:
    """What a user wants to know of a CLIP of `open_clip`."""
    holder = clip.cond_stage_model
    return describe_llm(holder.llm, holder.settings.token_budget, clip.patcher.load_device)


def encode_prompt(
    clip: HostCLIP,
    text: str,
    template: InstructionTemplate | None = None,
    emphasis: bool = False,
) -> tuple[list, str]:
    """Encode a prompt once: its CONDITIONING, and how this CLIP read it, a line each.

    The running node shows it too.

    Args:
        emphasis: whether the prompt is read for weights, as in (word:1.3).

    Raises:
        LiDiTError: the CLIP is not from one of our nodes.
    """
    holder = reader_of(clip, NO_LLM)
    with holder.noting() as read:
        conditioning = clip.encode_from_tokens_scheduled(
            clip.tokenize(text, **{TEMPLATE: template, EMPHASIS: emphasis or None})
        )
    used = template or holder.settings.template
    block, device = holder.settings.block, clip.patcher.load_device
    how = holder.name, block, used.name, device
    return conditioning, report_prompt(text, read[0], *how, emphasis=emphasis)


def block_named(text: str) -> Block:
    """A block as a user writes it: a whole number, several with commas, or "all"."""
    text = str(text).strip().lower()
    if text == "all":
        return text
    try:
        return plain_block([int(number) for number in text.split(",")])
    except ValueError:
        raise LiDiTError(
            f"layer is {text[:40]!r}; expected 'all', a whole number such as -3, the third block "
            "from the end, or several such as -3,-9,-15"
        ) from None


def _load(settings: LLMSettings, device: torch.device) -> LLMHolder:
    dtype = compute_dtype(settings.dtype, device)
    llm = load_llm(settings.source, settings.block, dtype, "cpu", computes_on=device)
    if settings.dtype == "fp8_e4m3fn":
        store_in_fp8(llm.module)
        llm = replace(llm, storage="fp8")
    return LLMHolder(llm, settings)


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the states: float32 or bfloat16, never float16, which Gemma's exceed."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(name)
    if named or device.type == "cpu":
        return named or default_dtype(device)
    return torch.bfloat16 if model_management.should_use_bf16(device) else torch.float32


def _contiguous(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Lay the weights out as files want them: on a CPU some lie transposed, which is faster."""
    return {name: weight.contiguous() for name, weight in weights.items()}


class LLMClip(WatchedClip):
    """The host's CLIP, except that the LLM is loaded only when a prompt is not in the cache."""

    @property
    def cond_stage_model(self) -> PromptReader:
        """The patcher's model: a node that chooses the device exchanges the patcher alone."""
        return self.patcher.model if hasattr(self, "patcher") else self._holder

    @cond_stage_model.setter
    def cond_stage_model(self, holder: PromptReader) -> None:
        self._holder = holder  # the host sets it before it makes the patcher

    def clone(self, *args, **kwargs) -> LLMClip:
        copy = super().clone(*args, **kwargs)
        copy.__dict__.pop("cond_stage_model", None)
        return copy

    def load_model(self, *args, **kwargs):
        if self.cond_stage_model.serves(self.patcher):
            return self.patcher
        return super().load_model(*args, **kwargs)

    def state_dict_for_saving(self) -> dict[str, torch.Tensor]:
        return _contiguous(super().state_dict_for_saving())

    def get_sd(self) -> dict[str, torch.Tensor]:  # what older hosts save
        return _contiguous(super().get_sd())

    def encode_from_tokens(self, *args, **kwargs):
        with self.cond_stage_model.serving(self.patcher):
            return super().encode_from_tokens(*args, **kwargs)

    def encode_from_tokens_scheduled(self, *args, **kwargs) -> list:
        holder, encoded = self.cond_stage_model, []
        holder.encoded = encoded
        try:
            with holder.serving(self.patcher):  # of scheduled hooks the host encodes by itself
                entries = super().encode_from_tokens_scheduled(*args, **kwargs)
        finally:
            holder.encoded = None
        for entry, values in zip(entries, encoded):  # scheduled hooks drop all but two tensors
            entry[1] = {**values, **entry[1]}
        return entries


def _loaded(patcher, device: torch.device, *_) -> None:
    """The host has loaded weights, perhaps not all of them."""
    move_the_rest(patcher.model, device)


def _unloaded(patcher, unpatch_all: bool = True) -> None:
    """The host has taken the weights off their device, or only changes who looks after them."""
    if unpatch_all:
        patcher.model.forget()
