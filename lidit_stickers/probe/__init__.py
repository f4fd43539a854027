"""What an LLM understood of a prompt, by a linear probe: `python -m lidit_stickers.probe`."""
