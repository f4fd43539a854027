"""A bridge learns in ComfyUI, through any diffusion model that its loader can load again."""
