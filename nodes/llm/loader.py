"""LLM -> CLIP."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llm.clip import DEVICES, DTYPES, block_named, open_clip
from ...host.llm.files import llm_choices, llm_fingerprint, llm_source
from ...host.llm.holder import LLMSettings
from ...lidit_core.errors import LiDiTError
from ...lidit_core.text.templates import PRESETS, find_template
from ..inputs import InstructionTemplateType


class LiDiTLLMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiDiTLLMLoader",
            display_name="LI-DiT LLM Loader",
            category="LI-DiT",
            description="Loads a decoder-only LLM as a CLIP, from safetensors or GGUF.",
            inputs=[
                io.Combo.Input(
                    "llm",
                    options=llm_choices(),
                    tooltip="From models/llm and the other folders for text encoders, then what "
                    "was fetched. The weights read the LLM that they were trained on",
                ),
                io.Combo.Input(
                    "template",
                    options=list(PRESETS),
                    default="short",
                    tooltip="The instruction before the prompt. The stickers were trained with "
                    "'short'; 'paper' is the paper's own",
                ),
                io.String.Input(
                    "layer",
                    default="-3",
                    tooltip="Whose output is read: a block counted from the end (-3 is the "
                    "paper's) or from 1, several such as -3,-9,-15 for weights that were trained "
                    "on them, or 'all'",
                ),
                io.Int.Input(
                    "token_budget",
                    default=96,
                    min=1,
                    max=32768,
                    tooltip="Tokens of the prompt that are read at most, the template's not "
                    "counted; the stickers were trained with 96",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="auto: bfloat16 where the device is good at it, else float32. fp8 "
                    "halves the memory of the weights and changes the states a little",
                ),
                io.Combo.Input(
                    "device",
                    options=list(DEVICES),
                    default="default",
                    tooltip="default: where ComfyUI puts text encoders. cpu: leaves the GPU alone",
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
    def validate_inputs(cls, llm: str | None = None) -> bool | str:
        try:
            return llm is None or bool(llm_source(llm))
        except LiDiTError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, llm: str | None = None, **_) -> str:
        return repr(llm and llm_fingerprint(llm))

    @classmethod
    def execute(
        cls, llm, template, layer, token_budget, dtype, device, custom_template=None
    ) -> io.NodeOutput:
        used = custom_template or find_template(template)
        settings = LLMSettings(
            llm_source(llm), used, block_named(layer), token_budget, dtype, device
        )
        return io.NodeOutput(open_clip(settings))
