"""The U-Nets of SD1.5 and SDXL: their shapes and layers, read from a checkpoint."""
