"""LI-DiT as the host's own objects: CLIP, MODEL, CONDITIONING; the nodes are thin over it."""
