"""A CLIP of ComfyUI's own loaders read as an LLM, with its own weights."""

from __future__ import annotations

import uuid
import weakref
from dataclasses import dataclass, replace
from typing import cast

import comfy.sd
import torch
from comfy.patcher_extension import CallbacksMP
from torch import nn

from ...lidit_core.errors import LiDiTError, check
from ...lidit_core.llm.blocks import Block, kept_blocks, shown_block, tap_indices
from ...lidit_core.llm.decoder.fingerprints import decoder_fingerprint
from ...lidit_core.llm.loading import LLM, Tokenizer
from ...lidit_core.llm.storage import of_blocks
from ..node_notes import note
from .clip import LLMClip
from .host_decoder import HostDecoder, HostModule, stored_blocks, text_models
from .host_kinds import LLMKind, LLMSizes, check_name, kind_of, label_of, told_name
from .host_tokenizer import readable_tokenizer
from .plain_text import PlainText
from .reader import LLMSettings, PromptReader

_identities: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def read_as_llm(clip: comfy.sd.CLIP, settings: LLMSettings, name: str = "") -> LLMClip:
    """The same CLIP, without a copy of its weights, whose prompts are read by its LLM.

    Args:
        name: of the LLM, as checkpoints call it; "" = told from its class and sizes.

    Raises:
        LiDiTError: the CLIP holds no LLM, or one that is not run as LI-DiTs are trained; or the
            block or the name cannot be its.
    """
    if isinstance(getattr(clip, "cond_stage_model", None), PromptReader):
        raise LiDiTError(
            "this CLIP is read as an LLM already; connect it as it is, and set template, layer and "
            "budget in the node that made it"
        )
    check(
        isinstance(clip, comfy.sd.CLIP),
        f"clip is a {type(clip).__name__}; expected one of ComfyUI's loaders, as CLIPLoader",
    )
    if clip.layer_idx is not None:
        note("the layer of CLIP Set Last Layer is not read here; this node's own layer is")
    reader = HostReader(clip.patcher.model, clip.tokenizer, settings, name)
    if not name:
        note(_told(reader))
    return HostLLMClip.around(clip, reader)


def _told(reader: HostReader) -> str:
    if reader.is_released:
        return (
            f"taken for {reader.name} by its sizes; models that were made from it have the same, "
            "so if yours is one of them, write its name into llm_name"
        )
    return (
        f"called {reader.name}, as no released LLM has these sizes or several do; write the name "
        "that your LI-DiT was trained on into llm_name if it is that one"
    )


@dataclass(frozen=True)
class HostLLM(LLM):
    """An LLM that the host runs, in float32 whatever its weights are stored in."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        assert isinstance(self.module, HostDecoder)
        return self.module.host.embed_tokens.weight.device

    @property
    def vocabulary(self) -> int:
        assert isinstance(self.module, HostDecoder)
        return self.module.host.vocab_size


def host_llm(
    clip_model: nn.Module, tokenizers: object, block: Block, name: str
) -> tuple[HostLLM, bool]:
    """The one LLM that a CLIP's model holds, and whether it is known as a released one.

    Raises:
        LiDiTError: see `read_as_llm`.
    """
    found = list(text_models(clip_model))
    check(
        len(found) == 1,
        f"this CLIP holds {type(clip_model).__name__} with {len(found)} LLMs that ComfyUI runs "
        "block by block; expected one of Qwen, Gemma, Mistral or Llama, so load it with CLIPLoader",
    )
    ((place, transformer),) = found
    model, kind = transformer.model, kind_of(transformer)
    sizes = _sizes(model, kind)
    check_name(name, kind, sizes)
    told = told_name(kind, sizes)
    label = name or told or label_of(kind, sizes)
    decoder = HostDecoder(model, _kept(model, block, sizes, label), kind.label)
    tokenizer = cast(Tokenizer, readable_tokenizer(tokenizers, place, kind.chat))
    known = decoder_fingerprint(model.embed_tokens.weight, model.layers[0])
    kept, width = decoder.config.num_hidden_layers, sizes.width
    context, taps = model.config.max_position_embeddings, tap_indices(block, sizes.blocks, label)
    stored = of_blocks(stored_blocks(model), kept)
    made = HostLLM(
        label, decoder, tokenizer, block, kept, width, context, None, taps, known, stored
    )
    return made, bool(told)


def _sizes(model: HostModule, kind: LLMKind) -> LLMSizes:
    """The LLM's sizes; of one that ends before its final norm those of the whole."""
    blocks = len(model.layers)
    if model.norm is None and kind.whole:
        blocks = kind.whole
    return LLMSizes(model.config.hidden_size, blocks, model.vocab_size)


def _kept(model: HostModule, block: Block, sizes: LLMSizes, name: str) -> int:
    kept, there = kept_blocks(block, sizes.blocks, name), len(model.layers)
    check(
        kept <= there,
        f"layer {shown_block(block)} is block {kept} of {name}, and this CLIP holds its first "
        f"{there} blocks alone; choose 1 to {there}, or load the whole LLM",
    )
    return kept


class HostReader(PromptReader):
    """Reads prompts with a text model of the host's; whatever else is asked for, that answers."""

    made_by = "LI-DiT LLM from CLIP"
    is_released: bool  # whether its sizes are those of one released LLM

    def __init__(self, model: nn.Module, tokenizers: object, settings: LLMSettings, name: str):
        self.model, self.tokenizers, self.given = model, tokenizers, name
        llm, self.is_released = host_llm(model, tokenizers, settings.block, name)
        super().__init__(llm, replace(settings, source=llm.name), llm.name)

    def __getattr__(self, name: str):
        if name in ("model", "llm"):  # before they are set
            raise AttributeError(name)
        return getattr(self.model, name)

    @property
    def device(self) -> torch.device:
        return self.llm.device

    def of(self, model: nn.Module) -> HostReader:
        """The same reading of another copy of the weights, where the host has made one."""
        if model is self.model:
            return self
        return HostReader(model, self.tokenizers, self.settings, self.given)

    def weights_identity(self) -> list:
        """A name of this model object: a CLIP does not know its files."""
        return ["host", _identities.setdefault(self.model, uuid.uuid4().hex)]


class HostLLMClip(LLMClip):
    """The host's CLIP with its weights, loaded only when a prompt is not in the cache."""

    _reader: HostReader

    @classmethod
    def around(cls, clip: comfy.sd.CLIP, reader: HostReader) -> HostLLMClip:
        """A clone of the CLIP that reads prompts so."""
        made = clip.clone()
        made.__class__ = cls
        made.__dict__.pop("cond_stage_model", None)
        made._reader, made.tokenizer = reader, PlainText()
        made.layer_idx, made.tokenizer_options = None, {}
        made.patcher.add_callback(
            CallbacksMP.ON_DETACH, lambda _, unpatch_all=True: unpatch_all and reader.forget()
        )
        return made

    @property
    def cond_stage_model(self) -> HostReader:
        """The reading of the patcher's model: a node may exchange the patcher alone."""
        self._reader = self._reader.of(self.patcher.model)
        return self._reader

    @cond_stage_model.setter
    def cond_stage_model(self, reader: HostReader) -> None:
        pass  # the host's clone sets it; the patcher decides

    def clone(self, *args, **kwargs) -> HostLLMClip:
        reader = self.cond_stage_model
        copy = super().clone(*args, **kwargs)
        copy._reader = reader
        return copy
