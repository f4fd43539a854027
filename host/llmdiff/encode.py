"""An LLM's reading of a prompt for LLMDiff adapters, through the same caches as any other."""

from __future__ import annotations

from comfy import model_management

from ...lidit_core.errors import LiDiTError
from ...lidit_core.llm.blocks import shown_block
from ...lidit_core.text.encoder import pad_states
from ..keys import reading_of
from ..llm.notes import report_prompt, tell_prompt
from ..llm.reader import HostCLIP, PromptReader, reader_of
from .conditioning import LLMText

DIFFERENCES = "differences"  # the block
LAYERS = {"all": DIFFERENCES, DIFFERENCES: DIFFERENCES, -1: -1}  # the CLIP's: what is read of it
NO_LLM = (
    "and LLMDiff reads an LLM; connect the LI-DiT LLM loader with layer 'all' here, and this "
    "CLIP's prompt as conditioning"
)


def read_for_adapter(clip: HostCLIP, text: str) -> LLMText:
    """What each block of this CLIP's LLM adds because of the tokens that it sees.

    With layer -1 it is the LLM's last state, for adapters of the form "last".

    Raises:
        LiDiTError: the CLIP is no LLM, or one that was cut.
    """
    holder = _whole(clip)
    block = LAYERS[holder.settings.block]
    with holder.serving(clip.patcher) as cached:
        if not cached:
            clip.load_model()
        (row,) = holder.prompts(None, text, block).encode_rows([text])
    tell_prompt(text, row)
    template = holder.settings.template
    report_prompt(text, row, holder.name, block, template.name, clip.patcher.load_device)
    states = pad_states([row]).to(model_management.intermediate_device())
    reading, known = reading_of(block, template), holder.llm.fingerprint
    return LLMText(holder.name, states, reading, row.used, known)


def _whole(clip: HostCLIP) -> PromptReader:
    """The LLM of this CLIP with all of its blocks."""
    holder = reader_of(clip, NO_LLM)
    if holder.settings.block not in LAYERS:
        raise LiDiTError(
            f"this CLIP reads {holder.name} at layer {shown_block(holder.settings.block)}, and "
            f"LLMDiff needs every block; set {holder.made_by}'s layer to 'all', or to -1 for an "
            "adapter of the form last"
        )
    return holder
