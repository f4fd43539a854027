"""MODEL of SD1.5 or SDXL + adapter -> MODEL that an LLM's reading guides."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.folders import fingerprint
from ...host.llmdiff import files as llmdiff_files
from ...host.llmdiff.apply import with_adapter
from ...lidit_core.llmdiff.config import MODES
from ..schema import schema


class LLMDiffApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LLMDiffApply",
            display_name="LLMDiff Apply",
            category="LI-DiT/LLMDiff",
            search_aliases="adapter, load adapter, LLM adapter, SD1.5 LLM, SDXL LLM, 适配器, "
            "アダプター",
            advanced="start_percent, end_percent",
            description="An LLM as a second mind for a checkpoint of SD1.5 or SDXL. LoRAs, "
            "ControlNets and other adapters, also a second one of these, go on working.",
            inputs=[
                io.Model.Input("model", tooltip="A checkpoint of the adapter's family"),
                io.Combo.Input(
                    "adapter_name",
                    display_name="adapter",
                    options=llmdiff_files.adapters(),
                    tooltip="Adapters that come with this pack, or files in models/llmdiff",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="add",
                    tooltip="add: the checkpoint's own text stays and the LLM's is added. replace: "
                    "the LLM's is the only text, as in the paper. It must be one that the adapter "
                    "was trained for",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Scales what is added; 0 is the checkpoint as it was",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Of sampling: before it the checkpoint is as it was",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Of sampling: after it the checkpoint is as it was",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="For any sampler, with LLMDiff Encode's prompts"
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str) -> bool:
        return True  # a name that is not there gets its sentence when the node runs

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str, **_) -> str:
        return fingerprint(adapter_name, llmdiff_files.find_adapter)

    @classmethod
    def execute(
        cls, model, adapter_name, mode, strength, start_percent, end_percent
    ) -> io.NodeOutput:
        path = llmdiff_files.find_adapter(adapter_name)
        return io.NodeOutput(with_adapter(model, path, mode, strength, start_percent, end_percent))
