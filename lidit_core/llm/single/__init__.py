"""An LLM that is one safetensors file, as ComfyUI keeps its text encoders."""
