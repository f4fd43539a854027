"""CLIP + prompt -> lists of CONDITIONING: the prompt read in every combination of settings."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llm.reading_grid import (
    FUSIONS,
    REFINERS,
    lines_of,
    readings,
    templates_fingerprint,
)
from ..inputs import emphasis_input, prompt_input
from ..schema import schema


def _axis(name: str, default: str, tooltip: str) -> io.String.Input:
    return io.String.Input(name, default=default, multiline=True, tooltip=tooltip)


class LiDiTReadingGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTReadingGrid",
            display_name="LI-DiT Reading Grid",
            category="LI-DiT/conditioning",
            search_aliases="XY plot, XYZ plot, grid, compare, ablation, XY 图表, 对比, 比較",
            description="Reads one prompt in every combination of instruction, refiner and fusion. "
            "What follows runs once for each; LI-DiT Labelled Grid puts the pictures together.",
            inputs=[
                io.Clip.Input("clip", tooltip="The first LLM, from the LI-DiT LLM loader"),
                prompt_input(emphasis=True),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    tooltip="What all pictures avoid; read in the same combinations",
                ),
                _axis(
                    "instructions",
                    "short\nnone",
                    "Instruction templates, one a line: presets, or files in models/llm_templates",
                ),
                _axis(
                    "refiners",
                    "as trained\nstrength 0",
                    f"How the model's refiners read, one a line: {', '.join(REFINERS)}. 'without "
                    "gates' breaks the pictures of weights that were trained with gates",
                ),
                _axis("fusions", "LLM 1 alone", f"How LLMs join, one a line: {', '.join(FUSIONS)}"),
                io.Clip.Input("clip_2", optional=True, tooltip="The second LLM, to be fused"),
                emphasis_input(),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", is_output_list=True, tooltip="For a sampler"
                ),
                io.Conditioning.Output(
                    display_name="negative", is_output_list=True, tooltip="For the same sampler"
                ),
                io.String.Output(
                    display_name="labels",
                    is_output_list=True,
                    tooltip="What each was read with, for the labelled grid",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, instructions: str, **_) -> str:
        return templates_fingerprint(instructions)

    @classmethod
    def execute(
        cls,
        clip,
        text,
        negative,
        instructions,
        refiners,
        fusions,
        clip_2=None,
        emphasis: bool = False,
    ) -> io.NodeOutput:
        clips = [clip] if clip_2 is None else [clip, clip_2]
        axes = (
            lines_of(instructions, "instructions"),
            lines_of(refiners, "refiners", REFINERS),
            lines_of(fusions, "fusions", FUSIONS),
        )
        labels, positives = zip(*readings(clips, text, *axes, emphasis), strict=True)
        negatives = [read for _, read in readings(clips, negative, *axes, emphasis)]
        return io.NodeOutput(list(positives), negatives, list(labels))
