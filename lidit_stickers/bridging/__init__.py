"""What bridges are worth at the stickers' size: in a LI-DiT's branch, and in a checkpoint."""
