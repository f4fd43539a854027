"""Prompt expansion with the LLM of a CLIP, under the host's memory manager."""

from __future__ import annotations

import torch
from comfy import model_management

from ...lidit_core.errors import LiDiTError, check
from ...lidit_core.text.expansion import Expanded, Expansion, expand, finished, reply_renderer
from ..node_notes import note, report
from ..progress import shown_on_node
from .host_clip import HostReader
from .host_decoder import text_models
from .memory import memory_needed
from .reader import HostCLIP, PromptReader


def expand_prompt(clip: HostCLIP, text: str, how: Expansion) -> str:
    """Write a prompt out with this CLIP's LLM; the running node shows the text.

    Raises:
        LiDiTError: the CLIP is not from one of our nodes, or its LLM does not write.
    """
    reader = getattr(clip, "cond_stage_model", None)
    if not isinstance(reader, PromptReader):
        raise LiDiTError(
            f"this CLIP holds {type(reader).__name__}, which is not read as an LLM; connect the "
            "LI-DiT LLM loader, or put LI-DiT LLM from CLIP between if it is one"
        )
    with shown_on_node():
        if isinstance(reader, HostReader):
            made = _by_host(reader, clip.patcher, text, how)
        else:
            made = _by_library(reader, clip.patcher, text, how)
    told = f"{made.tokens} tokens written by {reader.name}"
    if made.added:
        told += f"; its other blocks, norm and head took {made.added / 1e6:,.0f} MB more meanwhile"
    report(f"{made.text}\n{told}", result=True)
    if made.cut:
        note(
            f"the text was stopped at {made.tokens} tokens, and its last whole sentence is its "
            "end; raise max_tokens for more"
        )
    return made.text


def _by_library(reader: PromptReader, patcher, text: str, how: Expansion) -> Expanded:
    """By an LLM of the LLM loader, whose other blocks are read from its files meanwhile."""
    device, beside = patcher.load_device, memory_needed(reader.llm, how.max_tokens, text)

    def make_room(added: int) -> None:
        model_management.load_models_gpu([patcher], memory_required=added + beside)
        reader.settle(device)

    return expand(reader.llm, reader.settings.source, text, how, device, make_room)


def _by_host(reader: HostReader, patcher, text: str, how: Expansion) -> Expanded:
    """By the host's own text model, which is there as a whole."""
    (_, transformer), *_ = text_models(reader.model)
    check(
        callable(getattr(transformer, "generate", None)),
        "this release of ComfyUI writes no text with its own text encoders; update ComfyUI, or "
        "load this LLM with the LI-DiT LLM loader",
    )
    check(
        transformer.model.norm is not None,
        f"ComfyUI loaded {reader.name} without its final norm, so that it writes no text; load it "
        "with the LI-DiT LLM loader",
    )
    renderer, device = reply_renderer(reader.llm, how), patcher.load_device
    needed = memory_needed(reader.llm, how.max_tokens, text)
    model_management.load_models_gpu([patcher], memory_required=needed)
    ids = renderer(text).ids
    reader.llm.check_tokens(ids)
    ids = torch.tensor([ids], device=device)
    embedded = transformer.model.embed_tokens(ids, out_dtype=torch.float32)
    reply = transformer.generate(
        embedded,
        do_sample=how.temperature > 0,
        max_length=how.max_tokens,
        temperature=how.temperature,
        top_k=0,
        top_p=how.top_p,
        seed=how.seed,
        stop_tokens=renderer.stops(),
    )
    return finished(reader.llm.tokenizer, reply, renderer.stops(), Expanded("", 0, 0))
