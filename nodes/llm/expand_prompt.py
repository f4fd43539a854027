"""CLIP + short prompt -> the prompt written out by the CLIP's LLM."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llm.expansion import expand_prompt
from ...host.node_notes import report, ui_notes
from ...lidit_core.text.expansion import Expansion
from ..schema import schema


class LiDiTExpandPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTExpandPrompt",
            display_name="LI-DiT Expand Prompt",
            category="LI-DiT/conditioning",
            search_aliases="prompt expansion, prompt enhancer, prompt upsampling, LLM text, "
            "generate text, 提示词扩写, プロンプト拡張",
            advanced="instruction, max_tokens, temperature, top_p",
            description="Writes a short prompt out with the LLM that reads it, if that was tuned "
            "for chat. The text is shown here; copy it into edited to change it. The LLM's other "
            "blocks, norm and head are loaded for it and freed afterwards.",
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="From the LI-DiT LLM loader, or LI-DiT LLM from CLIP"
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The short prompt, in the LLM's languages",
                ),
                io.String.Input(
                    "edited",
                    default="",
                    multiline=True,
                    tooltip="Not empty: this is handed on as it is, and the LLM does not run",
                ),
                io.Boolean.Input(
                    "expand", default=True, tooltip="Off: the short prompt is handed on as it is"
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0x7FFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed writes the same text; another one writes another",
                ),
                io.String.Input(
                    "instruction",
                    default="",
                    multiline=True,
                    tooltip="What the LLM is told before the prompt; empty = ours, with two "
                    "examples. With the word prompt in curly brackets in it, it is the whole of "
                    "the user's turn",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=96,
                    min=1,
                    max=4096,
                    tooltip="Of the text at most. A model draws worse from prompts that are longer "
                    "than those it was trained on, which the sampler tells",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.7,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How freely words are drawn; 0 = always the likeliest",
                ),
                io.Float.Input(
                    "top_p",
                    default=0.9,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Words are drawn from the likeliest ones that make up this share",
                ),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="For the text of any encode node")
            ],
        )

    @classmethod
    def execute(
        cls, clip, text, edited, expand, seed, instruction, max_tokens, temperature, top_p
    ) -> io.NodeOutput:
        handed_on = edited.strip() or ("" if expand else text)
        if expand and not handed_on:
            how = Expansion(instruction, seed, temperature, top_p, max_tokens)
            return io.NodeOutput(expand_prompt(clip, text, how), ui=ui_notes())
        report(f"handed on as it is: {handed_on}", result=True)
        return io.NodeOutput(handed_on, ui=ui_notes())
