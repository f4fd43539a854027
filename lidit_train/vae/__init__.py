"""The training of small autoencoders."""
