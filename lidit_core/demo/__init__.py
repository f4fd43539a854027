"""The demo checkpoint for LLMDiff, which misunderstands prompts as CLIP models do."""
