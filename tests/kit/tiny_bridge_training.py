"""A tiny bridge's run: a recording of one tiny LLM, which another learns to write."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tiny_llm import plain_tokenizer, save_llm
from tiny_training import write_recipe
from tokenizers import Tokenizer

from lidit_core.bridge.config import TeacherSpec
from lidit_core.bridge.layout import RowMaker, TokenLayout, fitted
from lidit_core.bridge.teacher import Teacher, seeds_of, write_teacher
from lidit_core.io.recording import record

WORDS = (
    "red cat left of two dogs on a blue background an apple three apples and bananas car".split()
)


def prompts(count: int = 60) -> list[str]:
    chance = random.Random(0)
    return list({" ".join(chance.choices(WORDS, k=chance.randint(2, 9))): 0 for _ in range(count)})


class Windowed:
    """A text encoder of CLIP's shape, with a pooled vector and a first row that is still."""

    def __init__(self, masked: bool = False, width: int = 20, pooled: int = 6) -> None:
        tokenizer = Tokenizer.from_str(plain_tokenizer().backend_tokenizer.to_str())
        layout = TokenLayout(start=(1,), end=(3,), window=14, pad=3, word=8)
        self.layout = fitted(layout, tokenizer)
        self.rows, self.masked = RowMaker(self.layout, tokenizer), masked
        ids, generator = tokenizer.get_vocab_size(), torch.Generator().manual_seed(4)
        self.table = torch.randn(ids, width, generator=generator)
        self.places = torch.randn(14, width, generator=generator)
        self.to_pooled = torch.randn(width, pooled, generator=generator)
        spec = TeacherSpec("windowed", width, ids, self.layout, pooled, masked=masked)
        self.teacher = Teacher(spec, self.rows, seeds_of(self.table))

    def __call__(self, text: str):
        rows = self.rows(text)
        x = self.table[rows.ids] + self.places[rows.places]
        sums = torch.zeros_like(x)
        for chunk in rows.chunks.unique():
            own = rows.chunks == chunk
            sums[own] = x[own].cumsum(0) / 4
        x = torch.where((rows.places == 0)[:, None], x, x + sums.tanh())
        values = {"pooled_output": (sums[-1] @ self.to_pooled)[None], "guidance": 1.5}
        if self.masked:
            values["attention_mask"] = (rows.kinds != 2).long()[None]
        return [(x[None], values)]


def make_bridge_world(folder: Path, masked: bool = False, *llms: str) -> dict[str, str]:
    """A recording in ``folder/recording``, and LLMs; where each is, by name."""
    teacher = Windowed(masked)
    record(teacher, prompts(), folder / "recording", {"encoder": "windowed"})
    write_teacher(folder / "recording", teacher.teacher)
    return {name: str(save_llm(folder / name, vocab_size=500)) for name in llms or ("student",)}


def bridge_fields(folder: Path, *llms: str, **changes) -> dict:
    """A recipe over ``folder/recording`` as YAML data; 8 steps of batch 4."""
    sizes = {"width": 32, "heads": 2, "blocks": 1, "refiner_blocks": 1, "held_out": 0.1}
    made = {
        "trains": "bridge",
        "bridge": {"llms": [str(folder / name) for name in llms or ("student",)], **sizes},
        "data": {"sources": [{"kind": "recording", "path": str(folder / "recording")}]},
        "stages": [{"images": 32, "batch": 4}],
        "optimiser": {"learning_rate": 1e-2, "warmup": 2},
        "cache": {"dtype": "float32", "folder": str(folder / "cache")},
        "checkpoints": {"every": 2},
        "log": {"every": 1, "trackers": []},
        "compute": {"precision": "float32"},
    }
    for name, value in changes.items():
        inside = isinstance(value, dict) and isinstance(made.get(name), dict)
        made[name] = {**made[name], **value} if inside else value
    return made


def bridge_recipe(folder: Path, *llms: str, **changes):
    from lidit_train.recipe_file import read_recipe

    return read_recipe(write_recipe(folder, bridge_fields(folder, *llms, **changes)))
