"""Lists of IMAGE and labels -> one IMAGE."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.picture_grid import labelled_grid
from ..schema import schema


class LiDiTLabelledGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTLabelledGrid",
            display_name="LI-DiT Labelled Grid",
            category="LI-DiT/image",
            search_aliases="XY plot, image grid, contact sheet, compare, 网格, グリッド",
            description="Puts a list of pictures side by side into one, each below its label.",
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="A list of pictures, or one batch"),
                io.String.Input(
                    "labels", force_input=True, tooltip="From the reading grid, one a picture"
                ),
                io.Int.Input("columns", default=4, min=1, max=64, tooltip="Pictures in a row"),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="To preview or save")],
        )

    @classmethod
    def execute(cls, images, labels, columns) -> io.NodeOutput:
        pictures = [picture for batch in images for picture in batch]
        return io.NodeOutput(labelled_grid(pictures, labels, columns[0]))
