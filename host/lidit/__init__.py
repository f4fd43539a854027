"""LI-DiT in ComfyUI: MODEL and CONDITIONING."""
