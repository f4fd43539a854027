"""CLIP and a file of prompts -> a recording."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ...host import recording
from ...host.node_notes import report, ui_notes
from ..schema import schema


class LiDiTRecordConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTRecordConditioning",
            display_name="Record Conditioning",
            category="LI-DiT/conditioning",
            search_aliases="cache text embeddings, prompt cache, dataset, encode prompts, "
            "记录条件, 条件付け 記録",
            description="Keeps what a text encoder makes of every line of a text file, to train "
            "from. Any CLIP of ComfyUI will do. A recording that was stopped goes on.",
            inputs=[
                io.Clip.Input("clip", tooltip="Whose conditioning is recorded"),
                io.Combo.Input(
                    "prompts",
                    options=recording.prompt_files(),
                    tooltip="A .txt file in ComfyUI's input folder, one prompt a line",
                ),
                io.String.Input(
                    "name",
                    default="my-encoder",
                    tooltip="Of the recording's folder in output/recordings",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, prompts: str) -> bool:
        return True  # execute says what is wrong, where the node shows it

    @classmethod
    def fingerprint_inputs(cls, prompts: str, name: str, **_) -> str:
        return recording.fingerprint(prompts, name)

    @classmethod
    def execute(cls, clip, prompts: str, name: str) -> io.NodeOutput:
        lines = recording.listed_prompts(prompts)
        bar = comfy.utils.ProgressBar(len(lines))

        def on_prompt(count: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update(count)

        made = recording.record_prompts(clip, lines, name, on_prompt)
        report(f"{made.count} prompts in {made.folder}")
        return io.NodeOutput(ui=ui_notes())
