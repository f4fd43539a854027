"""LI-DiT is trained: all of it, its refiners, or a LoRA."""
