"""Prompt expansion with the LLM of a CLIP, under the host's memory manager."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from comfy import model_management

from ...lidit_core.errors import check
from ...lidit_core.text.expansion import (
    Expanded,
    Expansion,
    continued,
    ends_of,
    expand,
    finished,
    ids_before,
    reply_renderer,
)
from ...lidit_core.text.templates import InstructionTemplate, find_template
from ..node_notes import note, report
from ..progress import shown_on_node
from .host_clip import HostReader
from .host_decoder import text_models
from .memory import memory_needed
from .reader import HostCLIP, PromptReader, reader_of

NO_LLM = (
    "which is not read as an LLM; connect the LI-DiT LLM loader, or put LI-DiT LLM from CLIP "
    "between if it is one"
)


def expand_prompt(clip: HostCLIP, text: str, how: Expansion) -> str:
    """Write a prompt out with this CLIP's LLM; the running node shows the text.

    Raises:
        LiDiTError: the CLIP is not from one of our nodes, or its LLM does not write.
    """
    reader = reader_of(clip, NO_LLM)
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


def continue_prompt(
    clip: HostCLIP, text: str, template: InstructionTemplate | None, max_tokens: int
) -> tuple[str, str]:
    """What this CLIP's LLM would write next, with an instruction and without.

    The running node shows both.

    Args:
        template: of the instruction; None = the CLIP's own.
        max_tokens: written at most.

    Raises:
        LiDiTError: the CLIP is not from one of our nodes, or its LLM does not write.
    """
    reader = reader_of(clip, NO_LLM)
    template = template or reader.settings.template
    if template == find_template("none"):
        note(
            "the LLM is read without an instruction, so both texts are the same; connect an "
            "instruction template to compare"
        )
    with shown_on_node():
        told = _next(reader, clip.patcher, text, template, max_tokens)
        alone = _next(reader, clip.patcher, text, find_template("none"), max_tokens)
    report(f"with {template.name!r}: {told!r}\nwithout: {alone!r}\nby {reader.name}", result=True)
    return told, alone


def _next(
    reader: PromptReader, patcher, text: str, template: InstructionTemplate, max_tokens: int
) -> str:
    how = Expansion(temperature=0, max_tokens=max_tokens)
    if isinstance(reader, HostReader):
        ids, stops = ids_before(reader.llm, text, template, max_tokens), ends_of(reader.llm)
        reply = _written(reader, patcher, text, ids, stops, how)
        return reader.llm.tokenizer.decode(reply)
    room, source = _room(reader, patcher, text, how), reader.settings.source
    device = patcher.load_device
    return continued(reader.llm, source, text, template, max_tokens, device, room)


def _by_library(reader: PromptReader, patcher, text: str, how: Expansion) -> Expanded:
    """Expand with an LLM of the LLM loader, whose other blocks are read from files meanwhile."""
    room = _room(reader, patcher, text, how)
    return expand(reader.llm, reader.settings.source, text, how, patcher.load_device, room)


def _room(reader: PromptReader, patcher, text: str, how: Expansion) -> Callable[[int], None]:
    """What loads the LLM beside so many bytes more."""
    device, beside = patcher.load_device, memory_needed(reader.llm, how.max_tokens, text)

    def make_room(added: int) -> None:
        model_management.load_models_gpu([patcher], memory_required=added + beside)
        reader.settle(device)

    return make_room


def _by_host(reader: HostReader, patcher, text: str, how: Expansion) -> Expanded:
    """Expand with the host's own text model, which is there as a whole."""
    renderer = reply_renderer(reader.llm, how)
    stops = renderer.stops()
    reply = _written(reader, patcher, text, renderer(text).ids, stops, how)
    return finished(reader.llm.tokenizer, reply, stops, Expanded("", 0, 0))


def _written(
    reader: HostReader,
    patcher,
    text: str,
    ids: Sequence[int],
    stops: list[int],
    how: Expansion,
) -> list[int]:
    """The tokens that the host's text model writes after these."""
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
    needed = memory_needed(reader.llm, how.max_tokens, text)
    model_management.load_models_gpu([patcher], memory_required=needed)
    reader.llm.check_tokens(ids)
    given = torch.tensor([list(ids)], device=patcher.load_device)
    embedded = transformer.model.embed_tokens(given, out_dtype=torch.float32)
    return transformer.generate(
        embedded,
        do_sample=how.temperature > 0,
        max_length=how.max_tokens,
        temperature=how.temperature,
        top_k=0,
        top_p=how.top_p,
        seed=how.seed,
        stop_tokens=stops,
    )
