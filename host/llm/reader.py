"""How an LLM under the host's memory manager encodes prompts, through the library's cache."""

from __future__ import annotations

import contextlib
import functools
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from comfy import model_management
from torch import Tensor

from ...lidit_core.errors import LiDiTError
from ...lidit_core.figures.tokens import places_told
from ...lidit_core.llm.blocks import Block, shown_block
from ...lidit_core.llm.loading import LLM
from ...lidit_core.model.prompt_text import BranchText, PromptText, mean_state
from ...lidit_core.text.cache import PromptStates
from ...lidit_core.text.emphasis import read_prompt
from ...lidit_core.text.encoder import LLMEncoder, pad_states
from ...lidit_core.text.prompt_encoder import PromptEncoder
from ...lidit_core.text.templates import InstructionTemplate, find_template
from ..keys import reading_of
from ..lidit.conditioning import sequence_of, values_of
from ..patching.patches import check_bypass, check_weight_patches, name_owner
from .memory import memory_needed
from .notes import tell_prompt
from .plain_text import EMPHASIS, TEMPLATE, plain_text_of
from .weights import tell_normed

TEMPLATES_KEPT = 4  # whose instruction stays computed, each a few MB


@dataclass(frozen=True)
class LLMSettings:
    """What one CLIP is made from."""

    source: str  # see `locate`
    template: InstructionTemplate = find_template("paper")
    block: Block = -3  # see `load_llm`
    token_budget: int = 256
    dtype: str = "auto"  # of clip.DTYPES; fp8 stores the weights and computes in what auto gives
    device: str = "default"  # one of clip.DEVICES


class HostPatcher(Protocol):
    """The part of the host's ModelPatcher that is read of a CLIP."""

    load_device: torch.device


class HostCLIP(Protocol):
    """The part of the host's CLIP that encodes."""

    patcher: HostPatcher

    def load_model(self) -> object: ...

    def tokenize(self, text: str, **options: object) -> dict: ...

    def encode_from_tokens_scheduled(self, tokens: dict) -> list: ...


class PromptReader:
    """Encodes prompts with one LLM whose weights the host's memory manager moves."""

    made_by = "the LLM loader"  # the node that users know
    device: torch.device  # where the weights were loaded to last

    def __init__(self, llm: LLM, settings: LLMSettings, name: str):
        self.llm, self.settings, self.name = llm, settings, name
        name_owner(llm.module, type(llm.module).__name__)
        self.encoded: list[dict] | None = None  # of a schedule's prompts, while it is encoded
        self.noted: list[PromptStates] | None = None  # what is read, while `noting`
        self._encoders: OrderedDict[str, LLMEncoder] = OrderedDict()
        self._patcher = None
        self._behind = None  # the patcher that is served and whose weights the cache cannot know
        self._patches = None  # on the weights when they ran last; None where that is not known

    @abstractmethod
    def weights_identity(self) -> list:
        """What tells these weights from others, but for what the host patches."""

    def settle(self, device: torch.device) -> None:
        """See to weights that the host has moved to the device before they are used."""

    def reset_clip_options(self) -> None:
        """Do nothing: nothing is kept from one prompt to the next."""

    def generate(self, *_, **__) -> None:
        """Refuse what the host's nodes for writing text ask for."""
        raise LiDiTError(
            "this CLIP reads prompts for LI-DiT and writes no text for this node; use LI-DiT "
            "Expand Prompt, or connect the CLIP of one of ComfyUI's own loaders here"
        )

    def set_clip_options(self, options: dict) -> None:
        if options.get("layer") is not None:
            raise LiDiTError(
                f"CLIP Set Last Layer asks for layer {options['layer']} of an LLM that is read at "
                f"layer {shown_block(self.settings.block)}; choose the layer in {self.made_by} "
                "instead"
            )

    def serves(self, patcher) -> bool:
        return self._patcher is patcher

    @contextlib.contextmanager
    def serving(self, patcher) -> Iterator[bool]:
        """Encode with this patcher's weights; gives whether the cache knows them.

        Scheduled hooks, injections (LoRAs in bypass mode) and wrappers of weights change what comes
        out behind every identity: then nothing is cached, and whoever encodes loads the LLM first.
        """
        behind = (patcher.forced_hooks, patcher.injections, patcher.weight_wrapper_patches)
        before, known = (self._patcher, self._behind), not any(behind)
        self._patcher, self._behind = (patcher, None) if known else (None, patcher)
        try:
            yield known
        finally:
            self._patcher, self._behind = before

    @contextlib.contextmanager
    def noting(self) -> Iterator[list[PromptStates]]:
        """Collect how each prompt is read that is encoded meanwhile."""
        self.noted = noted = []
        try:
            yield noted
        finally:
            self.noted = None

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, Tensor, dict]:
        """States (1, L, C), their mean (1, C) float32, and the values of a CONDITIONING entry."""
        text = plain_text_of(tokens)
        template = tokens.get(TEMPLATE) or self.settings.template
        emphasis, prompts = bool(tokens.get(EMPHASIS)), self.prompts(template, text)
        row = read_prompt(prompts, text, emphasis)
        states = pad_states([row]).to(model_management.intermediate_device())
        tell_prompt(text, row, emphasis)
        if self.noted is not None:
            self.noted.append(row)
        reading = reading_of(self.settings.block, template)
        read = BranchText(
            self.name,
            states,
            reading=reading,
            used=row.used,
            fingerprint=self.llm.fingerprint,
            places=places_told(text, row, emphasis),
        )
        values = values_of(PromptText((read,)))
        if self.encoded is not None:
            self.encoded.append(values)
        return sequence_of(values), mean_state(states), values

    def prompts(
        self, template: InstructionTemplate | None, text: str, block: Block | None = None
    ) -> PromptEncoder:
        """The LLM behind the cache, or without it where the weights are not known.

        Room is made for `text` when the LLM is loaded. An LLM that was loaded with block "all" can
        be asked for block "differences" instead.
        """
        template, patcher = template or self.settings.template, self._patcher
        block = self.settings.block if block is None else block
        prompts = CachedPrompts(
            self.settings.source,
            template,
            block,
            self.settings.token_budget,
            self.llm.dtype,
            self.device if patcher is None else patcher.load_device,
            open_encoder=functools.partial(self._open, template, patcher, text, block),
        )
        prompts.weights = self.weights_identity()
        if patcher is None:
            prompts.caches.memory = None
        elif patcher.patches:
            prompts.weights.append(str(patcher.patches_uuid))
        return prompts

    def _open(self, template: InstructionTemplate, patcher, text: str, block: Block) -> LLMEncoder:
        """The encoder of this template, the LLM on its device with this patcher's weights."""
        patches = None
        if self._behind is not None:
            self._check_weights(self._behind)
        if patcher is not None:
            self._check_weights(patcher)
            memory = memory_needed(self.llm, self.settings.token_budget, text)
            model_management.load_models_gpu([patcher], memory_required=memory)
            patches = patcher.patches_uuid if patcher.patches else ""
        if patches is None or patches != self._patches:
            self.forget()
        self._patches = patches
        device = self.device if patcher is None else patcher.load_device
        self.settle(device)
        key = f"{device} {block} {template.to_json()}"
        encoder = self._encoders.pop(key, None) or LLMEncoder(
            self.llm,
            template,
            self.settings.token_budget,
            device,
            differences=block == "differences",
        )
        self._encoders[key] = encoder
        while len(self._encoders) > TEMPLATES_KEPT:
            self._encoders.popitem(last=False)
        return encoder

    def _check_weights(self, patcher) -> None:
        """Refuse or tell what nodes have set on the weights that cannot be read so."""
        check_weight_patches(patcher, self.name, self._check_merged)
        check_bypass(patcher, self.name)
        tell_normed(patcher, self.name)

    def _check_merged(self, misshapen: str, theirs: object) -> None:
        """Refuse a merge of two kinds of LLM, which reads nothing."""
        ours = type(self.llm.module).__name__
        if theirs not in (None, ours):
            misshapen = f"its kind, {ours} and {theirs}"
        if misshapen:
            raise LiDiTError(
                f"a node merged the LLM {self.name} with another that differs in {misshapen}, and "
                "what comes of it reads nothing; merge trainings of one LLM, or take the node out"
            )

    def forget(self) -> None:
        """Drop what was computed with the weights as they were: the templates' instructions."""
        for encoder in self._encoders.values():
            encoder.forget()

    def memory_estimation_function(self, tokens: dict, device: object = None) -> int:
        """Bytes that a prompt takes beside the weights; without one the longest."""
        budget = self.settings.token_budget
        return memory_needed(self.llm, budget, plain_text_of(tokens) if tokens else "x" * budget)


def reader_of(clip: HostCLIP, refusal: str) -> PromptReader:
    """What a CLIP of one of our nodes reads prompts with.

    Args:
        refusal: how a sentence goes on that begins with what another CLIP holds.
    """
    reader = getattr(clip, "cond_stage_model", None)
    if not isinstance(reader, PromptReader):
        raise LiDiTError(f"this CLIP holds {type(reader).__name__}, {refusal}")
    return reader


class CachedPrompts(PromptEncoder):
    """Prompts of an LLM that the host may have patched."""

    weights: list = []

    def weights_identity(self) -> list:
        return self.weights
