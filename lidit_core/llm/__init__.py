"""Frozen decoder-only LLMs: finding, fetching and loading them."""
