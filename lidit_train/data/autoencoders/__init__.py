"""Autoencoders that a recipe names: of ours, of diffusers, and of Stable Diffusion's files."""
