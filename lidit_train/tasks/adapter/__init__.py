"""An LLMDiff adapter is trained for a U-Net."""
