"""BRIDGE and CLIPs of LLMs -> the CLIP of the checkpoint that the bridge is for."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.bridge.clip import bridged_clip, describe_clip
from ...host.node_notes import report, ui_notes
from ..inputs import BridgeType, other_llms, taken_llms
from ..schema import schema


class LiDiTBridge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTBridge",
            display_name="LI-DiT Bridge",
            category="LI-DiT/conditioning",
            search_aliases="LLM as CLIP, replace text encoder, replace T5, SDXL LLM, ClipProj, "
            "桥接, ブリッジ",
            advanced="clip_3, clip_4",
            description="An LLM as the text encoder of a checkpoint that was made for another. "
            "CLIP Text Encode, LoRAs on the model, ControlNets and samplers stay as they are.",
            inputs=[
                BridgeType.Input("bridge", tooltip="From LI-DiT Bridge Loader"),
                io.Clip.Input(
                    "clip",
                    tooltip="The LLM that the bridge reads, at the layer that its loader names; "
                    "the template is the bridge's",
                ),
                *other_llms(),
                io.Clip.Input(
                    "encoder",
                    optional=True,
                    tooltip="The checkpoint's own CLIP, to mix with where strength is below 1; a "
                    "bridge that adds to it always reads it",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1: the bridge alone, or all that it adds. 0: the encoder's own "
                    "conditioning, unchanged",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that draws; not changed. Connect it, and a bridge that "
                    "does not fit is refused",
                ),
            ],
            outputs=[
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="For CLIP Text Encode, with the model that the bridge was trained for",
                )
            ],
        )

    @classmethod
    def execute(cls, bridge, clip, strength, encoder=None, model=None, **others) -> io.NodeOutput:
        made = bridged_clip(bridge, taken_llms(clip, others), encoder, strength, model)
        report(describe_clip(bridge, strength))
        return io.NodeOutput(made, ui=ui_notes())
