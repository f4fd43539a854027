"""The LLMDiff adapter: a decoder-only LLM as a second mind for SD1.5 and SDXL."""
