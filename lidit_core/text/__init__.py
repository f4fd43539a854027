"""The text side: from a prompt to the hidden states of a decoder-only LLM (paper, Sec. 3.1)."""
