"""CLIP + prompt -> CONDITIONING, and how the prompt was read."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llm.clip import encode_prompt
from ..inputs import InstructionTemplateType, emphasis_input, prompt_input
from ..schema import schema


class LiDiTTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTTextEncode",
            display_name="LI-DiT Text Encode",
            category="LI-DiT/conditioning",
            search_aliases="text encoder, CLIP text encode, prompt, LLM prompt, 提示词, "
            "文本编码, プロンプト",
            description="As CLIP Text Encode, with a template of its own if you like, and a text "
            "that says how the LLM read the prompt.",
            inputs=[
                io.Clip.Input("clip", tooltip="From the LI-DiT LLM loader"),
                prompt_input(emphasis=True),
                InstructionTemplateType.Input(
                    "template", optional=True, tooltip="Instead of the LLM loader's template"
                ),
                emphasis_input(),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="For any sampler, or for the LI-DiT refiners",
                ),
                io.String.Output(
                    display_name="info",
                    tooltip="Tokens used, where the prompt lies, its states, and what was cut",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip, text: str, template=None, emphasis: bool = False) -> io.NodeOutput:
        conditioning, info = encode_prompt(clip, text, template, emphasis)
        return io.NodeOutput(conditioning, info, ui={"text": [info]})
