"""LI-DiT (arXiv 2406.11831) as a standalone library; it never imports ComfyUI."""

__version__ = "0.1.0"  # that of pyproject.toml
