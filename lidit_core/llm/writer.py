"""The whole of an LLM that was loaded cut: its other blocks, final norm and head, for writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import check
from ..progress import tell
from .decoder.build import empty_model, text_config, truncated
from .decoder.checkpoint import Checkpoint, checkpoint_files
from .encoders import is_encoder
from .hub import model_folder
from .loading import LLM
from .locate import locate

CausalLM = Any  # a class of transformers that writes, which differs from LLM to LLM


@dataclass(frozen=True)
class Writer:
    """An LLM that writes."""

    model: CausalLM  # of `AutoModelForCausalLM`; it shares the blocks of the LLM that was loaded
    added: int  # bytes that it takes beside that LLM


@contextmanager
def writer(
    llm: LLM,
    source: str | Path,
    device: torch.device | str | None = None,
    make_room: Callable[[int], object] = int,
) -> Iterator[Writer]:
    """Map what an LLM lacks for writing, and free it after the block.

    The blocks and embeddings that were loaded are used as they lie, whatever a host has done to
    them.

    Args:
        llm: of `load_llm`.
        source: what it was loaded from; see `locate`.
        device: where it computes; by default where its inputs go.
        make_room: is told how many bytes will be added, before they are.

    Raises:
        LiDiTError: its kind does not write, its files lack the rest, or it is spread out.
    """
    check(
        llm.placed is None,
        f"{llm.name} is spread over several devices, or read a block at a time, where it writes no "
        "text; load the whole of it on one device",
    )
    model, added = _completed(llm, source, torch.device(device or llm.device), make_room)
    try:
        yield Writer(model, added)
    finally:
        del model


def _outline(llm: LLM, source: str | Path) -> tuple[CausalLM, dict[str, Tensor], Checkpoint]:
    """The whole model with the loaded parts in place, what it still lacks, and where that lies.

    What lacks is told by its name in the model, as tensors without values.
    """
    found = locate(source)
    folder = model_folder(found)
    config = text_config(folder, found.name)
    from transformers import AutoModelForCausalLM

    known = getattr(AutoModelForCausalLM, "_model_mapping", None)
    check(
        not is_encoder(config) and (known is None or type(config) in known),
        f"{found.name} is a {config.model_type}, which has no class that writes text; choose an "
        "LLM that was made for chat",
    )
    whole = truncated(config, config.num_hidden_layers)
    model: CausalLM = empty_model(whole, found.name, AutoModelForCausalLM)
    _share(model, llm.module)
    known = {id(tensor) for tensor in (*llm.module.parameters(), *llm.module.buffers())}
    if getattr(config, "tie_word_embeddings", False):
        known.add(id(model.get_output_embeddings().weight))  # the embeddings, turned round
    own = model.state_dict(keep_vars=True)
    lacking = {name: like for name, like in own.items() if id(like) not in known}
    files = [found.weights] if found.weights else checkpoint_files(folder)
    return model, lacking, Checkpoint(files)


def _share(model: CausalLM, cut: nn.Module) -> None:
    """Put the embeddings, blocks and last norm of a cut decoder in the place of the whole one's."""
    whole = cast(CausalLM, model.base_model)
    whole.set_input_embeddings(cast(CausalLM, cut).get_input_embeddings())
    for name, part in cut.named_children():
        if isinstance(part, nn.ModuleList):
            blocks = getattr(whole, name)
            for number, block in enumerate(part):
                blocks[number] = block
        elif "norm" in name or name == "ln_f":
            setattr(whole, name, part)


@torch.inference_mode(False)  # hosts run in it
@torch.no_grad()
def _completed(
    llm: LLM, source: str | Path, device: torch.device, make_room: Callable[[int], object]
) -> tuple[CausalLM, int]:
    model, lacking, checkpoint = _outline(llm, source)
    places = _places(model, lacking, checkpoint, llm.name)
    make_room(sum(like.numel() for like in lacking.values()) * llm.dtype.itemsize)
    wanted = {place: lacking[name] for name, place in places.items()}
    stored = checkpoint.stored(wanted) if wanted else {}
    tell(f"loading the rest of {llm.name}", 1)
    weights = {n: stored[place].read(llm.dtype).to(device) for n, place in places.items()}
    model.load_state_dict(weights, strict=False, assign=True)
    shared = {id(part) for part in llm.module.modules()}
    for part in model.modules():  # what is computed, as rotary frequencies
        if id(part) not in shared:
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer.to(device))
    head = model.get_output_embeddings()
    added = sum(tensor.nbytes for tensor in weights.values())
    if head.weight.is_meta:  # tied
        own = model.get_input_embeddings().weight
        head.weight = nn.Parameter(own.to(device, llm.dtype), requires_grad=False)
        added += head.weight.nbytes if head.weight.data_ptr() != own.data_ptr() else 0
    return model.eval().requires_grad_(False), added


def _places(
    model: CausalLM, lacking: dict[str, Tensor], checkpoint: Checkpoint, name: str
) -> dict[str, str]:
    """The name in a checkpoint of each tensor that the model lacks."""
    base = f"{model.base_model_prefix}."
    prefix = checkpoint.prefix(model.base_model.state_dict())
    places = {}
    for wanted in lacking:
        known = [prefix + wanted.removeprefix(base)] if wanted.startswith(base) else [
            place for place in checkpoint.files if f".{place}".endswith(f".{wanted}")]  # fmt: skip
        there = [place for place in known if place in checkpoint.files]
        check(
            bool(there),
            f"the files of {name} hold no {wanted}, which an LLM needs to write text (a copy that "
            "was made of a GGUF may lack it); give the whole LLM as a safetensors model folder",
        )
        places[wanted] = there[0]
    return places
