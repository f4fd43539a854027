"""A bridge learns from captioned pictures, through a frozen U-Net, by the diffusion loss."""
