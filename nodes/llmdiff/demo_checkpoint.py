"""The checkpoint that comes with the pack to show what an adapter repairs -> MODEL, CLIP, VAE."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.llmdiff.demo_checkpoint import load_demo_checkpoint
from ...lidit_core.demo.checkpoint import SHIPPED
from ...lidit_core.paths import SHIPPED_WEIGHTS
from ..schema import schema


class LLMDiffDemoCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LLMDiffDemoCheckpoint",
            display_name="LLMDiff Demo Checkpoint",
            category="LI-DiT/LLMDiff",
            search_aliases="adapter demo, load checkpoint, 演示, デモ",
            description="A tiny checkpoint of SD1.5's layout whose own text encoder understands "
            "next to nothing, to see what an adapter adds. Yours go through the stock loader.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Paints stickers at 64x64 pixels"),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Ignores word order; knows each word only by one of 16 numbers",
                ),
                io.Vae.Output(display_name="vae", tooltip="The stickers' autoencoder"),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_checkpoint(SHIPPED_WEIGHTS / SHIPPED))
