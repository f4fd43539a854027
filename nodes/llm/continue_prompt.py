"""CLIP + prompt -> what the CLIP's LLM would write next, with an instruction and without."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llm.expansion import continue_prompt
from ...host.node_notes import ui_notes
from ..inputs import InstructionTemplateType, prompt_input
from ..schema import schema


class LiDiTContinuePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTContinuePrompt",
            display_name="LI-DiT What Comes Next",
            category="LI-DiT/inspect",
            is_output_node=True,
            search_aliases="continue prompt, next token, LLM text, generate text, Figure 4, "
            "续写, 続きを書く",
            description="Shows what an instruction changes: what the LLM would write after the "
            "prompt, with the instruction and without (the paper's Figure 4). What it is about to "
            "write is what its states hold. Base models write here too.",
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="From the LI-DiT LLM loader, or LI-DiT LLM from CLIP"
                ),
                prompt_input(),
                io.Int.Input(
                    "max_tokens",
                    default=24,
                    min=1,
                    max=4096,
                    tooltip="Of each text at most; the likeliest token is written each time",
                ),
                InstructionTemplateType.Input(
                    "template", optional=True, tooltip="Instead of the LLM loader's template"
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="with_instruction", tooltip="What follows instruction and prompt"
                ),
                io.String.Output(display_name="alone", tooltip="What follows the prompt alone"),
            ],
        )

    @classmethod
    def execute(cls, clip, text, max_tokens, template=None) -> io.NodeOutput:
        return io.NodeOutput(*continue_prompt(clip, text, template, max_tokens), ui=ui_notes())
