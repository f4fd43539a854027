"""Prompts of public benchmarks, read from the user's files, and pictures in their layouts."""
