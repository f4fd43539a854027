"""CONDITIONING -> a file."""

from __future__ import annotations

from comfy_api.latest import io

from ...host import encoded_prompts
from ...host.node_notes import report, ui_notes
from ..schema import schema


class LiDiTSaveConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTSaveConditioning",
            display_name="Save Conditioning",
            category="LI-DiT/conditioning",
            search_aliases="save prompt embeds, text embeddings, save conditioning, cache prompt, "
            "保存条件, 条件付け 保存",
            description="Keeps an encoded prompt as a file in the output folder. Load Conditioning "
            "draws with it later, or on another machine, without the language model.",
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="Of any text encoder; areas, masks and ranges are kept, ControlNets "
                    "and hooks cannot be",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="conditioning/prompt",
                    tooltip="Folder and beginning of the file's name in the output folder; Load "
                    "Conditioning lists what lies in output/conditioning",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, conditioning, filename_prefix: str) -> io.NodeOutput:
        path = encoded_prompts.save(conditioning, filename_prefix)
        size = path.stat().st_size / 1024
        report(f"{path.name}, {size:,.0f} KiB, in {path.parent}")
        return io.NodeOutput(ui=ui_notes())
