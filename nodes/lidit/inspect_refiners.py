"""MODEL + CONDITIONING -> IMAGE: what the refiners do with a prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.lidit.figures import FIGURES, refiners_picture
from ...host.node_notes import ui_notes
from ..schema import schema


class LiDiTInspectRefiners(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTInspectRefiners",
            display_name="LI-DiT Inspect Refiners",
            category="LI-DiT/inspect",
            search_aliases="refiner attention, causal mask, gates, cosine similarity, heatmap, "
            "inspect, 可视化, 可視化",
            description="Shows what the refiners do with a prompt: how much each token looks at "
            "each other one, with full attention and under the causal mask; the sizes of the "
            "gates over time; or how alike the tokens are, before the refiners and after.",
            inputs=[
                io.Model.Input("model", tooltip="A LI-DiT"),
                io.Conditioning.Input("conditioning", tooltip="One prompt, as the sampler had it"),
                io.Combo.Input(
                    "figure",
                    options=list(FIGURES),
                    default="refiner attention",
                    tooltip="What is shown, for each LLM",
                ),
                io.Float.Input(
                    "time",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="When the refiners are looked at: 1 = noise, 0 = the finished picture; "
                    "the gates are shown at all times",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="To preview or save")],
        )

    @classmethod
    def execute(cls, model, conditioning, figure, time) -> io.NodeOutput:
        return io.NodeOutput(refiners_picture(model, conditioning, figure, time), ui=ui_notes())
