"""LI-DiT as a ComfyUI node pack. The nodes, and what they need, are imported when the host asks."""

from __future__ import annotations

WEB_DIRECTORY = "./web"  # what the canvas loads: js/, and the help pages of docs/


async def comfy_entrypoint():
    """The extension, for `nodes.load_custom_node` of the host."""
    from .nodes import LiDiTExtension

    return LiDiTExtension()
