"""The CLIPs that read for a bridge's LLMs, and what each makes of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...lidit_core.bridge.clipproj import LoadedProjection
from ...lidit_core.bridge.rows import StudentTokens, student_tokens
from ...lidit_core.errors import LiDiTError, check
from ...lidit_core.llm.blocks import Block, shown_block
from ...lidit_core.text.cache import PromptStates
from ...lidit_core.text.encoder import pad_states
from ...lidit_core.text.spec import LLMSpec, place_of
from ..llm.notes import tell_prompt
from ..llm.reader import HostCLIP, PromptReader, reader_of
from ..node_notes import note
from ..patching.clip_patches import schedule_of
from ..prompt_lengths import tell_length

NO_LLM = (
    "and a bridge reads an LLM; connect the LI-DiT LLM loader, or put LI-DiT LLM from CLIP "
    "between, and this CLIP as encoder"
)


def assigned(llms: Sequence[LLMSpec], clips: Sequence[HostCLIP], by_name: bool) -> list[HostCLIP]:
    """The CLIPs in the order of the LLMs that they read for.

    Args:
        by_name: False where a bridge knows its LLM's width alone.
    Raises:
        LiDiTError: one is no LLM, one that the bridge does not read, or set up otherwise.
    """
    check(
        len(clips) == len(llms),
        f"{len(clips)} CLIPs are connected and this bridge reads {len(llms)} LLMs "
        f"({', '.join(llm.name for llm in llms)}); connect one for each",
    )
    found: dict[int, HostCLIP] = {}
    for clip in clips:
        reader = reader_of(clip, NO_LLM)
        place = place_of(llms, reader.name, reader.llm.fingerprint) if by_name else 0
        if place is None or place in found:
            raise LiDiTError(
                f"this bridge reads {' and '.join(llm.name for llm in llms)}, and a CLIP here is "
                f"{reader.name}; load the LLM that it was trained on"
            )
        check_reader(llms[place], reader)
        check_one_entry(clip, f"the LLM {reader.name}")
        found[place] = clip
    return [found[place] for place in range(len(llms))]


def check_one_entry(clip: Any, what: str) -> None:
    """Refuse a CLIP that a node lets change over the steps, since it is read once.

    Args:
        what: the CLIP, as sentences call it.
    Raises:
        LiDiTError: it would be read as in the first part of its schedule alone.
    """
    parts = schedule_of(clip)
    check(
        parts == 1,
        f"{what} here has hooks with a schedule of {parts} parts, and a bridge writes one "
        "conditioning for all steps; switch schedule_clip of Set CLIP Hooks off, or take out the "
        "hooks' keyframes",
    )


def tell_source(loaded: LoadedProjection, clips: Sequence[HostCLIP]) -> None:
    """Tell on the node of an LLM that a projection names otherwise."""
    for clip in clips:
        if told := loaded.name_note(reader_of(clip, NO_LLM).name):
            note(told)


def check_reader(spec: LLMSpec, reader: PromptReader) -> None:
    """Refuse an LLM of another width or layer; tell of other weights and other bits."""
    check(
        reader.llm.width == spec.width,
        f"the LLM {reader.name} is {reader.llm.width} wide and this bridge was trained on "
        f"{spec.name} ({spec.width} wide); load that LLM",
    )
    check(
        _same_block(spec.block, reader),
        f"this bridge reads {reader.name} at layer {shown_block(spec.block)}, and the CLIP is read "
        f"at layer {shown_block(reader.settings.block)}; set layer to {shown_block(spec.block)} in "
        f"{reader.made_by}",
    )
    if told := spec.weights_note(reader.name, reader.llm.fingerprint):
        note(told)
    if told := spec.storage_note(reader.name, reader.llm.storage):
        note(told)
    if not spec.storage and reader.settings.dtype.startswith("fp8"):  # of older files, it is likely
        note(
            f"{reader.name} is held in fp8 here and the bridge was trained on its states as they "
            "are, so that it may do worse; choose dtype auto"
        )


def _same_block(block: Block, reader: PromptReader) -> bool:
    """Whether a layer is the same, also where one is counted from the end and one from 1."""
    own = reader.settings.block
    if own == block or not isinstance(own, int) or not isinstance(block, int):
        return own == block
    return block > 0 and reader.llm.blocks == block


def read(spec: LLMSpec, clip: HostCLIP, text: str) -> StudentTokens:
    """What an LLM makes of one prompt, in the template that the bridge was trained with."""
    (row,) = _rows(spec, clip, [text])
    tell_prompt(text, row)
    tell_length(spec, row.used)
    return _tokens(row, text)


def read_each(
    spec: LLMSpec, clip: HostCLIP, texts: Sequence[str]
) -> list[tuple[StudentTokens, PromptStates]]:
    """The same of several prompts, each by itself, of which nothing is told on the node.

    Beside each is what says how many of its tokens are read.
    """
    return [(_tokens(row, text), row) for row, text in zip(_rows(spec, clip, texts), texts)]


def _rows(spec: LLMSpec, clip: HostCLIP, texts: Sequence[str]) -> list[PromptStates]:
    reader = reader_of(clip, NO_LLM)
    with reader.serving(clip.patcher) as known:
        if not known:
            clip.load_model()
        longest = max(texts, key=len)
        return reader.prompts(spec.template, longest).encode_rows(texts, offsets=True)


def _tokens(row: PromptStates, text: str) -> StudentTokens:
    return student_tokens(pad_states([row]), [row], [len(text)])
