"""GGUF files: what they say, and how they become a model folder once."""
