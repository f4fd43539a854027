"""LLMDiff: a decoder-only LLM conditions a U-Net (Dong et al., ACM Multimedia 2024)."""
