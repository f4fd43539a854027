"""CLIP of the LLM loader + prompt -> CONDITIONING for a model with an LLMDiff adapter."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llmdiff.conditioning import WIDTHS, blank, joined
from ...host.llmdiff.encode import read_for_adapter
from ...host.node_notes import ui_notes
from ..inputs import prompt_input
from ..schema import schema


class LLMDiffEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LLMDiffEncode",
            display_name="LLMDiff Encode",
            category="LI-DiT/LLMDiff",
            search_aliases="adapter, text encoder, CLIP text encode, LLM prompt, 提示词, "
            "プロンプト",
            description="What an LLM reads of a prompt, block by block, for an SD1.5 or SDXL model "
            "with an LLMDiff adapter. Alone for mode replace, or joined with the checkpoint's own "
            "CLIP Text Encode for mode add.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="From the LI-DiT LLM loader, with layer 'all'; for an adapter of the "
                    "form last, with layer -1",
                ),
                prompt_input(),
                io.Combo.Input(
                    "base",
                    options=list(WIDTHS),
                    default="SD1.5",
                    tooltip="The checkpoint's family, for the empty text of its own that stands in "
                    "where no conditioning is joined",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="To join: the checkpoint's own text, or another LLM's LLMDiff Encode; "
                    "its areas, masks and ranges stay",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="For any sampler, with a model from LLMDiff Apply",
                )
            ],
        )

    @classmethod
    def execute(cls, clip, text: str, base: str, conditioning=None) -> io.NodeOutput:
        reading = read_for_adapter(clip, text)
        entries = [blank(base)] if conditioning is None else conditioning
        return io.NodeOutput(joined(entries, reading), ui=ui_notes())
