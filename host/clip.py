"""An LLM as the host's own CLIP: its memory manager moves it, its nodes encode with it.

States come from the library's cache. A prompt that was encoded before does not even have the LLM
moved to the GPU.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.sd
import torch
from comfy import model_management
from comfy.patcher_extension import CallbacksMP
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ..lidit_core.errors import LiDiTError
from ..lidit_core.states import PADDING, LLMStates
from ..lidit_core.text.cache import StateCache
from ..lidit_core.text.encoder import LLMEncoder, pad_states
from ..lidit_core.text.loading import LLM, default_dtype, load_llm
from ..lidit_core.text.locate import locate
from ..lidit_core.text.prompt_encoder import PromptEncoder, PromptInfo, file_identity
from ..lidit_core.text.templates import InstructionTemplate, find_template
from .conditioning import BranchText, PromptText, reading_of, values_of
from .llm_folders import model_name
from .llm_weights import move_the_rest, pageable, store_in_fp8
from .prompt_notes import tell

DTYPES = ("auto", "float32", "bfloat16", "fp8_e4m3fn")
DEVICES = ("default", "cpu")
TEMPLATE = "lidit_template"  # of tokens: another template than the CLIP's own
TEMPLATES_KEPT = 4  # whose instruction stays computed, each a few MB
ROOM_FOR_TEMPLATE = 256  # tokens, in the estimate of memory


@dataclass(frozen=True)
class LLMSettings:
    """What one CLIP is made from."""

    source: str  # see `locate`
    template: InstructionTemplate = find_template("paper")
    block: int | str = -3  # see `load_llm`
    token_budget: int = 256
    dtype: str = "auto"  # one of DTYPES; fp8 stores the weights and computes in what auto gives
    device: str = "default"  # one of DEVICES


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
    patcher.add_callback(CallbacksMP.ON_LOAD, _loaded)
    patcher.add_callback(CallbacksMP.ON_DETACH, _unloaded)


def open_patcher(settings: LLMSettings, disable_dynamic: bool = False):
    """The same LLM afresh, for hosts that need a copy of the weights."""
    return open_clip(settings, disable_dynamic).patcher


def prompt_info(clip: object, text: str, template: InstructionTemplate | None = None) -> PromptInfo:
    """How this CLIP reads the prompt, which is encoded if it was not before.

    Raises:
        LiDiTError: the CLIP is not from the LLM loader.
    """
    holder = getattr(clip, "cond_stage_model", None)
    if not isinstance(holder, LLMHolder):
        raise LiDiTError(
            f"this CLIP holds {type(holder).__name__}, whose states LI-DiT was not trained on; "
            "expected an LLM, so connect the LI-DiT LLM loader, or use CLIPTextEncode for others"
        )
    with holder.serving(clip.patcher) as cached:
        if not cached:
            clip.load_model()
        return holder.prompts(template, text).info(text)


def block_named(text: str) -> int | str:
    """A block as a user writes it: a whole number, or "all"."""
    text = str(text).strip().lower()
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise LiDiTError(
            f"layer is {text[:40]!r}; expected 'all' or a whole number such as -3, the third block "
            "from the end"
        ) from None


def _load(settings: LLMSettings, device: torch.device) -> LLMHolder:
    dtype = compute_dtype(settings.dtype, device)
    llm = load_llm(settings.source, settings.block, dtype, "cpu", computes_on=device)
    if settings.dtype == "fp8_e4m3fn":
        store_in_fp8(llm.module)
    return LLMHolder(llm, settings)


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the states: float32 or bfloat16, never float16, which Gemma's exceed."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(name)
    if named or device.type == "cpu":
        return named or default_dtype(device)
    return torch.bfloat16 if model_management.should_use_bf16(device) else torch.float32


class PlainText:
    """The host's tokenizer, which leaves text alone: weights, embeddings and BREAK are text."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options) -> dict:
        tokens = {"lidit": [[(text, 1.0)]]}
        template = options.get(TEMPLATE)
        return tokens if template is None else {**tokens, TEMPLATE: template}

    def state_dict(self) -> dict:
        return {}


class LLMClip(comfy.sd.CLIP):
    """The host's CLIP, except that the LLM is loaded only when a prompt is not in the cache."""

    @property
    def cond_stage_model(self) -> LLMHolder:
        """The patcher's: a node that chooses the device exchanges the patcher alone."""
        return self.patcher.model if hasattr(self, "patcher") else self._holder

    @cond_stage_model.setter
    def cond_stage_model(self, holder: LLMHolder) -> None:
        self._holder = holder  # the host sets it before it makes the patcher

    def clone(self, *args, **kwargs) -> LLMClip:
        copy = super().clone(*args, **kwargs)
        copy.__class__ = type(self)
        copy.__dict__.pop("cond_stage_model", None)
        return copy

    def load_model(self, *args, **kwargs):
        if self.cond_stage_model.serves(self.patcher):
            return self.patcher
        return super().load_model(*args, **kwargs)

    def encode_from_tokens(self, *args, **kwargs):
        with self.cond_stage_model.serving(self.patcher):
            return super().encode_from_tokens(*args, **kwargs)

    def encode_from_tokens_scheduled(self, *args, **kwargs) -> list:
        holder, encoded = self.cond_stage_model, []
        holder.encoded = encoded
        try:
            entries = super().encode_from_tokens_scheduled(*args, **kwargs)
        finally:
            holder.encoded = None
        for entry, values in zip(entries, encoded):  # scheduled hooks drop all but two tensors
            entry[1] = {**values, **entry[1]}
        return entries


class LLMHolder(nn.Module):
    """The LLM under the host's memory manager, which sets attributes that transformers protects."""

    def __init__(self, llm: LLM, settings: LLMSettings):
        super().__init__()
        self.transformer = pageable(llm.module)
        self.llm, self.settings = llm, settings
        self.name = model_name(llm.name)
        self.files = file_identity(locate(settings.source))  # those that were read
        self.dtypes = {llm.dtype}
        self.device = torch.device("cpu")  # the host's: where the weights were loaded to last
        self.manual_cast_dtype = None  # the host's
        self.encoded: list[dict] | None = None  # of a schedule's prompts, while it is encoded
        self._encoders: OrderedDict[str, LLMEncoder] = OrderedDict()
        self._patcher = None
        self._patches = None  # on the weights when they ran last; None where that is not known

    def reset_clip_options(self) -> None:
        """Nothing is kept from one prompt to the next."""

    def set_clip_options(self, options: dict) -> None:
        if options.get("layer") is not None:
            raise LiDiTError(
                f"CLIP Set Last Layer asks for layer {options['layer']} of an LLM that was cut at "
                "loading; choose the layer in the LLM loader instead"
            )

    def load_sd(self, state: dict):
        return self.load_state_dict(state, strict=False)

    def serves(self, patcher) -> bool:
        return self._patcher is patcher

    @contextlib.contextmanager
    def serving(self, patcher) -> Iterator[bool]:
        """Encode with this patcher's weights; gives whether the cache knows them.

        Scheduled hooks, injections (LoRAs in bypass mode) and wrappers of weights change what comes
        out behind every identity: then nothing is cached, and whoever encodes loads the LLM first.
        """
        behind = (patcher.forced_hooks, patcher.injections, patcher.weight_wrapper_patches)
        before, known = self._patcher, not any(behind)
        self._patcher = patcher if known else None
        try:
            yield known
        finally:
            self._patcher = before

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, Tensor, dict]:
        """States (1, L, C), their mean (1, C) float32, and the values of a CONDITIONING entry."""
        text = plain_text_of(tokens)
        template = tokens.get(TEMPLATE) or self.settings.template
        (row,) = self.prompts(template, text).encode_rows([text])
        states = pad_states([row]).to(model_management.intermediate_device())
        tell(text, row)
        reading = reading_of(self.settings.block, template)
        read = BranchText(self.name, states, reading=reading, used=row.used)
        values = values_of(PromptText((read,)))
        if self.encoded is not None:
            self.encoded.append(values)
        return states.hidden, mean_state(states), values

    def prompts(self, template: InstructionTemplate | None, text: str) -> PromptEncoder:
        """The LLM behind the cache, or without it where the weights are not known.

        Room is made for `text` when the LLM is loaded.
        """
        template, patcher = template or self.settings.template, self._patcher
        prompts = CachedPrompts(
            self.settings.source,
            template,
            self.settings.block,
            self.settings.token_budget,
            self.llm.dtype,
            self.device if patcher is None else patcher.load_device,
            open_encoder=functools.partial(self._open, template, patcher, text),
        )
        prompts.weights = [*self.files, self.settings.dtype == "fp8_e4m3fn"]
        if patcher is None:
            prompts.memory = StateCache(0)
        elif patcher.patches:
            prompts.weights.append(str(patcher.patches_uuid))
        return prompts

    def _open(self, template: InstructionTemplate, patcher, text: str) -> LLMEncoder:
        """The encoder of this template, the LLM on its device with this patcher's weights."""
        patches = None
        if patcher is not None:
            memory = self.memory_needed(text)
            model_management.load_models_gpu([patcher], memory_required=memory)
            patches = patcher.patches_uuid if patcher.patches else ""
        if patches is None or patches != self._patches:
            self.forget()
        self._patches = patches
        device = self.device if patcher is None else patcher.load_device
        move_the_rest(self, device)  # a host that takes back room for another prompt moves it too
        key = f"{device} {template.to_json()}"
        encoder = self._encoders.pop(key, None) or LLMEncoder(
            self.llm, template, self.settings.token_budget, device
        )
        self._encoders[key] = encoder
        while len(self._encoders) > TEMPLATES_KEPT:
            self._encoders.popitem(last=False)
        return encoder

    def forget(self) -> None:
        """Drop what was computed with the weights as they were: the templates' instructions."""
        for encoder in self._encoders.values():
            encoder.forget()

    def memory_estimation_function(self, tokens: dict, device: object = None) -> int:
        """Bytes that a prompt takes beside the weights; without one the longest."""
        budget = self.settings.token_budget
        return self.memory_needed(plain_text_of(tokens) if tokens else "x" * budget)

    def memory_needed(self, text: str) -> int:
        """Bytes that this prompt takes beside the weights; no token is shorter than a byte."""
        config, llm = self.llm.module.config, self.llm
        tokens = min(self.settings.token_budget, len(text.encode("utf-8", "replace")))
        length = min(tokens + ROOM_FOR_TEMPLATE, llm.context)
        wide = 16 * llm.width + 4 * getattr(config, "intermediate_size", 4 * llm.width)
        square = length * getattr(config, "num_attention_heads", 1)
        return length * (wide + square + llm.state_width) * 4


def plain_text_of(tokens: dict) -> str:
    """The prompt that `PlainText` was given."""
    return " ".join(piece[0] for row in tokens["lidit"] for piece in row)


class CachedPrompts(PromptEncoder):
    """Prompts of an LLM that the host may have patched."""

    weights: list = []

    def weights_identity(self) -> list:
        return self.weights


@torch.inference_mode(False)
def mean_state(states: LLMStates) -> Tensor:
    """The mean (B, C) float32 of each row's tokens; zeros where there is none."""
    real = (states.roles != PADDING).to(torch.float32)[..., None]
    return (states.hidden.float() * real).sum(1) / real.sum(1).clamp(min=1)


def _loaded(patcher, device: torch.device, *_) -> None:
    """The host has loaded weights, perhaps not all of them."""
    move_the_rest(patcher.model, device)


def _unloaded(patcher, unpatch_all: bool = True) -> None:
    """The host has taken the weights off their device, or only changes who looks after them."""
    if unpatch_all:
        patcher.model.forget()
