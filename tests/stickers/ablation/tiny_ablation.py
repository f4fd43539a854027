"""Tiny ablations: a random trunk, two random LLMs, and the file that compares three variants."""

from __future__ import annotations

from pathlib import Path

import yaml
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.cli import main

NAMES = ("one", "two")
VARIANTS = [
    {"name": "full", "says": "the refiner", "reads": ["one"]},
    {"name": "none", "says": "no refiner", "reads": ["one"], "refiner": {"blocks": 0}},
    {"name": "both", "says": "two LLMs", "reads": ["one", "two"]},
]
CLAIMS = [
    {"says": "it helps", "this": "full", "other": "none", "table": "2", "paper": [2, 1]},
    {"says": "two help", "this": "both", "other": "full"},
]


def make_ablation_world(folder: Path) -> Path:
    """A trunk and two LLMs, all tiny and random."""
    for number, name in enumerate(NAMES):
        save_llm(folder / name, vocab_size=500 + number)
    save_lidit_files(folder, lidit_config("one", native_size=64, steps=2))
    return folder


def llm_words(world: Path) -> list[str]:
    return [word for name in NAMES for word in ("--llm", f"{name}={world / name}")]


def tiny(world: Path, **changes) -> dict:
    """Three variants, two seeds, three steps each."""
    return {
        "checkpoint": str(world / "model.safetensors"),
        "readings": {
            "one": {"name": "one", "width": 32, "token_budget": 24},
            "two": {"name": "two", "width": 32, "token_budget": 24, "template": "{prompt}"},
        },
        "fork": {
            "data": {"sources": [{"kind": "stickers", "path": "en", "count": 8, "distinct": 4}]},
            "stages": [{"images": 9, "batch": 3}],
            "optimiser": {"learning_rate": 1e-2, "warmup": 1, "ema": 0.5},
            "checkpoints": {"every": 1},
            "log": {"every": 1, "trackers": []},
        },
        "reference": "full",
        "variants": VARIANTS,
        "claims": CLAIMS,
        "gap": {"scenes": 3, "times": [0.7, 0.95]},
        "score": {"every": 400},
        **changes,
    }


def written(folder: Path, data: dict) -> str:
    path = folder / "ablation.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def ablate(world: Path, file: str, *words: str) -> int:
    return main(["ablate", file, *llm_words(world), "--device", "cpu", *words])
