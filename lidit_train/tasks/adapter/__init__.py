"""An LLMDiff adapter is trained for a U-Net that stays as it is."""

TRAINS = ("adapter",)  # values of the recipe's `trains`
