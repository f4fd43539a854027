"""A tiny run: twelve pictures, a tiny LLM, the shipped autoencoder, a LI-DiT of width 32."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml
from PIL import Image
from tiny_llm import save_llm

from lidit_core.checkpoints.lidit import read_lidit
from lidit_core.model.dit import LiDiT
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_train.recipe import Recipe
from lidit_train.recipe_file import read_recipe
from lidit_train.run import train
from lidit_train.tasks.lidit.lora import add_lora
from lidit_train.tasks.lidit.trained import Trained

LLM = "tiny"
ENCODERS = ("Dinov2", "Dinov2WithRegisters", "ViT", "CLIP", "Siglip", "ConvNext")
FOLDER = Path(__file__).resolve().parents[2] / "recipes"
# Those that `lidit train` reads; the others are for `lidit ablate`.
RECIPES = sorted({*FOLDER.glob("*.yaml")} - {*FOLDER.glob("ablate*.yaml")})
SEEN = 16  # numbers in a feature of a vision encoder


def spec(name: str = LLM) -> dict:
    return asdict(LLMSpec(name, 32, template=find_template("short"), token_budget=24))


def pictures(folder: Path, count: int = 12, size: tuple[int, int] = (48, 48)) -> Path:
    """Pictures of one colour with noise, and a caption each."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        rng = np.random.default_rng(n)
        pixels = rng.integers(0, 60, (size[1], size[0], 3)) + rng.integers(0, 190, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n:02}.png")
        (folder / f"{n:02}.txt").write_text(f"picture {n} of {'a cat' if n % 2 else 'two dogs'}")
    return folder


def fields(folder: Path, *llms: str, **changes) -> dict:
    """A recipe over ``folder/pictures`` as YAML data; 8 steps of batch 4 at 32 pixels, 2 saves."""
    model = {"depth": 2, "width": 32, "heads": 2, "llms": [spec(name) for name in llms or (LLM,)]}
    made = {
        "model": {"preset": "stickers", "changes": model},
        "data": {"sources": [{"kind": "folder", "path": str(folder / "pictures")}]},
        "stages": [{"images": 32, "batch": 4, "resolution": 32}],
        "optimiser": {"learning_rate": 1e-2, "warmup": 2},
        "cache": {"dtype": "float32"},
        "checkpoints": {"every": 8},
        "log": {"every": 1, "trackers": []},
        "compute": {"precision": "float32"},
    }
    return with_changes(made, changes)


def with_changes(made: dict, changes: dict) -> dict:
    """A recipe's data with some sections changed, each field by field."""
    for name, value in changes.items():
        inside = isinstance(value, dict) and isinstance(made.get(name), dict)
        made[name] = {**made[name], **value} if inside else value
    return made


def write_recipe(folder: Path, data: dict, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(data, allow_unicode=True))
    return path


def recipe_of(folder: Path, *llms: str, **changes) -> Recipe:
    return read_recipe(write_recipe(folder, fields(folder, *llms, **changes)))


def make_world(folder: Path, *llms: str) -> dict[str, str]:
    """Pictures and LLMs in a folder; where each LLM is, by name."""
    pictures(folder / "pictures")
    names = llms or (LLM,)
    return {
        name: str(save_llm(folder / name, "Llama", vocab_size=500 + i))
        for i, name in enumerate(names)
    }


def run(folder: Path, out: str, llms: dict[str, str], **changes) -> dict[str, torch.Tensor]:
    """Train in this process; the averaged weights that came out."""
    recipe = recipe_of(folder, *llms, **changes)
    return read_lidit(train(recipe, folder / out, "cpu", llms))[1]


def curve(folder: Path) -> list[dict]:
    """The log without what the clock says."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images/s", "at")} for line in lines]


def adapted(model: LiDiT, trained: Trained) -> LiDiT:
    """The model, in place, with only what is trained asking for gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained.weight(name))
    if trained.lora:
        model.lora = add_lora(model, trained.lora)
    return model


def save_encoder(folder: Path, family: str = "Dinov2", seed: int = 0) -> Path:
    """Write a vision encoder of random weights, as its `save_pretrained` does."""
    torch.manual_seed(seed)
    small = {"hidden_size": SEEN, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "image_size": 28, "patch_size": 14}
    if family == "ConvNext":
        small = {"hidden_sizes": [8, 8, 8, SEEN], "depths": [1, 1, 1, 1], "image_size": 64}
    if family in ("CLIP", "Siglip"):
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        text |= {"intermediate_size": 16, "vocab_size": 50}
        config = getattr(transformers, f"{family}Config")(text_config=text, vision_config=small)
    else:
        config = getattr(transformers, f"{family}Config")(**small)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    return folder
