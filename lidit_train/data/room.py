"""How much disk the caches of captions and latents take, and whether there is room for them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lidit_core.errors import LiDiTError
from lidit_core.text.spec import LLMSpec

from ..input_spec import InputSpec
from ..units import as_bytes
from .caption_states import CaptionReader
from .token_guess import LETTERS, TextTokens, text_tokens

STORED_BYTES = {"float32": 4, "bf16": 2}
TOKEN_BYTES = 12  # of a token: its role, and where its characters begin and end


def caption_bytes(spec: InputSpec, branch: int, tokens: TextTokens, dtype: str) -> int:
    """The bytes of one caption's states, roles and places."""
    return states_bytes(spec.widths[branch], tokens, dtype)


def states_bytes(width: int, tokens: TextTokens, dtype: str) -> int:
    """The bytes of one text's states, so many numbers a token, with roles and places."""
    return tokens.read * (width * STORED_BYTES[dtype] + TOKEN_BYTES)


def check_room(
    spec: InputSpec,
    branch: int,
    reader: CaptionReader,
    texts: Sequence[str],
    processes: int = 1,
) -> None:
    """Raise where the states of captions would be larger than what is free on their disk.

    Args:
        texts: one process's share of the captions; those that are kept already take nothing.
    """
    check_states_room(spec.llms, spec.widths[branch], branch, reader, texts, processes)


def check_states_room(
    llms: Sequence[LLMSpec],
    width: int,
    branch: int,
    reader: CaptionReader,
    texts: Sequence[str],
    processes: int = 1,
    otherwise: str = "set cache.states to false, which reads captions as training goes",
) -> None:
    """The same by the LLMs and the numbers in a token's states.

    Args:
        otherwise: what the sentence tells to do where no room can be made.
    """
    missing = reader.missing(texts)
    lengths = (-(-len(text.encode()) // LETTERS) for text in missing)
    known = (text_tokens(llms, length)[branch] for length in lengths)
    needed = processes * sum(states_bytes(width, tokens, reader.dtype) for tokens in known)
    assert reader.disk is not None  # else nothing is kept, and there is nothing to check
    free = free_disk(reader.disk.folder)
    if needed > free:
        raise LiDiTError(
            f"the states of {processes * len(missing):,} captions from {reader.spec.name} would "
            f"take about {as_bytes(needed)}, and {as_bytes(free)} are free in "
            f"{reader.disk.folder}; {otherwise}, or make room there"
        )


def free_disk(folder: Path) -> int:
    """Bytes free where this folder is, or will be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
