"""The training loop: optimisers, parallel processes, checkpoints, the log."""
