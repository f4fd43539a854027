"""LLMDiff in ComfyUI: an adapter on an SD1.5 or SDXL MODEL."""
