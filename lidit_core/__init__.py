"""LI-DiT (arXiv 2406.11831) as a standalone library; it never imports ComfyUI.

The names below are the public ones. Each is imported when it is first asked for, so that
importing this package needs, and loads, nothing.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"  # that of pyproject.toml

_HOME = {
    "LiDiTError": "errors",
    "LLMStates": "text.states",
    "LatentFormat": "model.config",
    "LiDiTConfig": "model.config",
    "LLMSpec": "text.spec",
    "RefinerConfig": "model.config",
    "PRESETS": "model.presets",
    "find_preset": "model.presets",
    "InstructionTemplate": "text.templates",
    "PromptEncoder": "text.prompt_encoder",
    "LinguisticTokenRefiner": "model.refiners",
    "CollaborativeRefiner": "model.collaborative",
    "BranchOptions": "model.refiners",
    "TextOptions": "model.text_side",
    "LiDiT": "model.dit",
    "TinyAutoencoder": "model.vae",
    "load_lidit": "checkpoints.lidit",
    "load_vae": "checkpoints.lidit",
    "read_config": "checkpoints.lidit",
    "save_lidit": "checkpoints.lidit",
    "initial_noise": "diffusion.sampling",
    "sample": "diffusion.sampling",
    "add_noise": "diffusion.objectives",
    "normalise": "model.latents",
    "denormalise": "model.latents",
    "to_pixels": "io.pictures",
    "save_picture": "io.pictures",
    "load_pipeline": "pipeline",
    "Pipeline": "pipeline",
    "Order": "pipeline",
    "Settings": "pipeline",
    "look": "inspection",
    "read_prompt": "inspection",
    "refiner_attention": "inspection",
    "gates_over_time": "inspection",
    "state_similarity": "inspection",
    "save_refiner": "checkpoints.refiner",
    "exchange_refiner": "checkpoints.refiner",
    "merge_lora": "checkpoints.lora",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
