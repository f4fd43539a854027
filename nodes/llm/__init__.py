"""Nodes that load an LLM and tell it how to read."""
