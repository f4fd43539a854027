"""LLM -> CLIP."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llm.clip import DEVICES, DTYPES, block_named, describe_before, describe_clip, open_clip
from ...host.llm.fetching import offers, present_source
from ...host.llm.files import llm_choices, llm_fingerprint
from ...host.llm.reader import LLMSettings
from ...host.node_notes import report, ui_notes
from ...host.progress import shown_on_node
from ...lidit_core.llm.demo_llms import SMOLLM2
from ...lidit_core.text.templates import find_template
from ..inputs import InstructionTemplateType, budget_input, layer_input, template_input
from ..schema import schema

OFFERED = "; ".join(f"{name}: {offer}" for name, offer in offers().items())


def llm_input() -> io.Combo.Input:
    """The list of LLMs; the canvas is told of each demo LLM what its fetching means."""
    listed = io.Combo.Input(
        "llm",
        options=llm_choices(),
        default=SMOLLM2.name,  # which the stickers read, whatever else is listed before it
        tooltip="From models/llm and the other folders for text encoders, then what was fetched, "
        "then demo LLMs, which are fetched on first use. The weights read the LLM that they were "
        f"trained on. {OFFERED}",
    )
    listed.extra_dict["lidit_offers"] = offers()
    return listed


class LiDiTLLMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTLLMLoader",
            display_name="LI-DiT LLM Loader",
            category="LI-DiT/loaders",
            search_aliases="load LLM, language model, text encoder, CLIP loader, SmolLM2, "
            "Gemma, Qwen, GGUF, LLM 加载, 文本编码器, テキストエンコーダー",
            advanced="token_budget, dtype, device",
            description="Loads an LLM as a CLIP, from safetensors or GGUF: a decoder, or for "
            "LLMDiff adapters an encoder of BERT's or T5's kind. The demo LLMs are fetched on "
            f"first use, once you allow it. {OFFERED}.",
            inputs=[
                llm_input(),
                template_input(),
                layer_input(),
                budget_input(),
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
                io.Boolean.Input(
                    "fetch",
                    default=False,
                    optional=True,
                    tooltip="On: a demo LLM that is not on this machine is fetched when the node "
                    "runs, and you accept its licence (see llm). One that is here stays as it is",
                ),
            ],
            outputs=[
                io.Clip.Output(
                    display_name="clip", tooltip="For any text encode node; ours says more"
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, llm: str | None = None) -> bool:
        return True  # an LLM that is not there gets its sentence when the node runs

    @classmethod
    def fingerprint_inputs(cls, llm: str | None = None, **_) -> str:
        return repr(llm and llm_fingerprint(llm))

    @classmethod
    def execute(
        cls, llm, template, layer, token_budget, dtype, device, custom_template=None, fetch=False
    ) -> io.NodeOutput:
        used, block = custom_template or find_template(template), block_named(layer)
        with shown_on_node():
            source = present_source(llm, fetch)
            settings = LLMSettings(source, used, block, token_budget, dtype, device)
            report(describe_before(settings))
            clip = open_clip(settings)
        report(describe_clip(clip))
        return io.NodeOutput(clip, ui=ui_notes())
