"""A file -> CONDITIONING."""

from __future__ import annotations

from comfy_api.latest import io

from ...host import encoded_prompts
from ..schema import schema


class LiDiTLoadConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTLoadConditioning",
            display_name="Load Conditioning",
            category="LI-DiT/conditioning",
            search_aliases="load prompt embeds, text embeddings, load conditioning, cached prompt, "
            "加载条件, 条件付け 読み込み",
            description="An encoded prompt that Save Conditioning kept: no language model is "
            "loaded for it.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=encoded_prompts.choices(),
                    tooltip="From models/conditioning, then those saved into output/conditioning",
                )
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="As it was saved: for the model whose text encoder it came from",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool:
        return True  # execute says what is wrong, where the node shows it

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return encoded_prompts.fingerprint(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(encoded_prompts.load(file))
