"""Files: atomic writing, tensors, JSON records, pictures."""
