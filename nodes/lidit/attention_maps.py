"""MODEL + CONDITIONING + LATENT + VAE -> IMAGE: where a picture looks at each word."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.lidit.figures import words_picture
from ...host.node_notes import ui_notes
from ..schema import schema


class LiDiTAttentionMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTAttentionMaps",
            display_name="LI-DiT Attention Maps",
            category="LI-DiT/inspect",
            search_aliases="cross-attention, attention map, heatmap, DAAM, inspect, 注意力图, "
            "アテンションマップ",
            advanced="steps",
            description="Shows where a picture looks at each word of its prompt: the picture, lit "
            "where the model's cross-attention to that word is large. The finished picture is "
            "noised anew, and the model runs once at each noise level.",
            inputs=[
                io.Model.Input("model", tooltip="A LI-DiT"),
                io.Conditioning.Input("conditioning", tooltip="One prompt, as the sampler had it"),
                io.Latent.Input("samples", tooltip="The picture: a sampler's latent"),
                io.Vae.Input("vae", tooltip="Decodes the picture"),
                io.Int.Input(
                    "steps",
                    default=8,
                    min=1,
                    max=100,
                    tooltip="Noise levels that the maps are the mean of; each runs the model once",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The picture, and beside it a cell a word"
                )
            ],
        )

    @classmethod
    def execute(cls, model, conditioning, samples, vae, steps) -> io.NodeOutput:
        picture = words_picture(model, conditioning, samples["samples"], vae, steps)
        return io.NodeOutput(picture, ui=ui_notes())
