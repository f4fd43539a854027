"""Frozen LLMs, encoders too: finding, fetching and loading them."""
