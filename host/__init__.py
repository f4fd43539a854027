"""LI-DiT as ComfyUI's own objects: CLIP, MODEL, CONDITIONING. Imports the host; nodes are thin over it."""
