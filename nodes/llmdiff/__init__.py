"""Nodes of LLMDiff."""
