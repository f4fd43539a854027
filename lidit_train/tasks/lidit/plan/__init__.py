"""What the training of a LI-DiT takes: work, memory and room, counted and not run."""
