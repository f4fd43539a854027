"""An LLM as ComfyUI's CLIP."""
