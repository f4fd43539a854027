"""Bridges: an LLM writes the conditioning that a checkpoint's own text encoder writes."""
