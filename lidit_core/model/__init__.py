"""LI-DiT itself (arXiv 2406.11831): refiners, diffusion transformer, autoencoder."""
