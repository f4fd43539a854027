"""The text around a prompt that tells the LLM what to do with it."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llm.files import template_choices, template_file, template_named
from ...lidit_core.text.templates import with_texts
from ..inputs import InstructionTemplateType
from ..schema import schema


class LiDiTInstructionTemplate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTInstructionTemplate",
            display_name="LI-DiT Instruction Template",
            category="LI-DiT/conditioning",
            search_aliases="system prompt, prompt template, chat template, 指令模板, "
            "系统提示词, システムプロンプト",
            description="An instruction before the prompt makes an LLM represent what the prompt "
            "shows instead of what comes next. Weights read best what they were trained with.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=template_choices(),
                    default="short",
                    tooltip="Where to start from: a preset, or a file in models/llm_templates",
                ),
                io.String.Input(
                    "system",
                    default="",
                    multiline=True,
                    tooltip="System text; empty = the preset's",
                ),
                io.String.Input(
                    "instruction",
                    default="",
                    multiline=True,
                    tooltip="What the LLM is told before the prompt; empty = the preset's. With "
                    "the word prompt in curly brackets in it, it is the whole of the user's turn",
                ),
            ],
            outputs=[
                InstructionTemplateType.Output(
                    display_name="template", tooltip="For the LLM loader or the text encoder"
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, preset: str | None = None) -> bool:
        return True  # a name that is not there gets its sentence when the node runs

    @classmethod
    def fingerprint_inputs(cls, preset: str | None = None, **_) -> float:
        file = preset and template_file(preset)
        return file.stat().st_mtime if file else 0.0

    @classmethod
    def execute(cls, preset: str, system: str, instruction: str) -> io.NodeOutput:
        return io.NodeOutput(
            with_texts(template_named(preset), system.strip(), instruction.strip())
        )
