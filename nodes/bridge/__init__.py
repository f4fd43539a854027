"""Bridges: an LLM as another model's CLIP."""
