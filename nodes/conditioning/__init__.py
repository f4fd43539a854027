"""Nodes that keep encoded prompts."""
