"""Nodes of LI-DiT."""
