"""An LLM's weights: their files, what lies in them, and the decoder that they are put into."""
