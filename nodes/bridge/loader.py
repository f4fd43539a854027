"""A bridge's file -> BRIDGE."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.bridge import files
from ...host.folders import fingerprint
from ...host.node_notes import report, ui_notes
from ..inputs import BridgeType
from ..schema import schema


class LiDiTBridgeLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTBridgeLoader",
            display_name="LI-DiT Bridge Loader",
            category="LI-DiT/loaders",
            search_aliases="load bridge, ClipProj, projection, replace text encoder, LLM for SDXL, "
            "桥接, ブリッジ",
            description="Loads a bridge, by which an LLM writes what a checkpoint's own text "
            "encoder would: one that `lidit train` made, or a ClipProj projection.",
            inputs=[
                io.Combo.Input(
                    "bridge_name",
                    display_name="bridge",
                    options=files.bridges(),
                    tooltip="Files in models/bridges",
                )
            ],
            outputs=[BridgeType.Output(display_name="bridge", tooltip="For LI-DiT Bridge")],
        )

    @classmethod
    def validate_inputs(cls, bridge_name: str) -> bool:
        return True  # a name that is not there gets its sentence when the node runs

    @classmethod
    def fingerprint_inputs(cls, bridge_name: str) -> str:
        return fingerprint(bridge_name, files.find_bridge)

    @classmethod
    def execute(cls, bridge_name: str) -> io.NodeOutput:
        loaded = files.open_bridge(bridge_name)
        report(files.describe_bridge(loaded))
        return io.NodeOutput(loaded, ui=ui_notes())
