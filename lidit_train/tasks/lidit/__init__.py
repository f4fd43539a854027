"""LI-DiT is trained: all of it, the refiners of fresh branches, or a LoRA beside it."""

TRAINS = ("all", "refiners", "lora")  # values of the recipe's `trains`
