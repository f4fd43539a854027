"""Files of LI-DiT: whole checkpoints, refiners, LoRAs."""
