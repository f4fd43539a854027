"""Training for LI-DiT and its autoencoder: resumable, one recipe file, an EMA, sample grids."""
