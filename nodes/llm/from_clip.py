"""CLIP of another loader -> CLIP that reads prompts as an LLM."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llm.clip import block_named
from ...host.llm.host_clip import read_as_llm
from ...host.llm.reader import LLMSettings
from ...lidit_core.text.templates import find_template
from ..inputs import InstructionTemplateType, budget_input, layer_input, template_input
from ..schema import schema


class LiDiTLLMFromCLIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTLLMFromCLIP",
            display_name="LI-DiT LLM from CLIP",
            category="LI-DiT/loaders",
            search_aliases="text encoder as LLM, CLIP to LLM, Qwen, Gemma, Mistral, Llama, fp8, "
            "文本编码器, テキストエンコーダー",
            advanced="token_budget, llm_name",
            description="Reads prompts with the LLM of a CLIP from another loader, as CLIPLoader: "
            "Qwen 2.5, 3 and 3 VL, Gemma 3, Mistral Small 3, Llama 3. The weights stay that "
            "CLIP's, as they are; nothing is loaded twice.",
            inputs=[
                io.Clip.Input("clip", tooltip="From CLIPLoader or another loader of text encoders"),
                template_input(),
                layer_input(),
                budget_input(),
                io.String.Input(
                    "llm_name",
                    default="",
                    tooltip="Which LLM it is, as the weights that read it call it: Qwen3-4B. "
                    "Empty: guessed from its sizes, which its fine-tunes share",
                ),
                InstructionTemplateType.Input(
                    "custom_template", optional=True, tooltip="Instead of the preset above"
                ),
            ],
            outputs=[
                io.Clip.Output(
                    display_name="clip", tooltip="For any text encode node; ours says more"
                )
            ],
        )

    @classmethod
    def execute(
        cls, clip, template, layer, token_budget, llm_name, custom_template=None
    ) -> io.NodeOutput:
        used = custom_template or find_template(template)
        settings = LLMSettings("", used, block_named(layer), token_budget)
        return io.NodeOutput(read_as_llm(clip, settings, llm_name.strip()))
