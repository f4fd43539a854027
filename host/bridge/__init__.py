"""A bridge as ComfyUI's CLIP, and what a bridge is trained from, of any CLIP."""
