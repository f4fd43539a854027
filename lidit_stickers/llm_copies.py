"""Copies of an LLM with some of its files changed, for comparisons; and three that know less.

    python -m lidit_stickers.llm_copies --out runs/llms

For recipes/ablate-readings.yaml and the probe, copies of SmolLM2 are written: with random weights;
whose first block adds nothing, so that its states are its embeddings; and both, so that its states
say which tokens there are and nothing else.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lidit_core.errors import check, exit_status
from lidit_core.io.tensors import opened, read_safetensors, write_safetensors
from lidit_core.llm.decoder.checkpoint import checkpoint_files
from lidit_core.llm.gguf.convert import NOTE
from lidit_core.llm.gguf.tokenizer import CHECKED
from lidit_core.llm.hub import model_folder
from lidit_core.llm.locate import locate

SEED = 0  # of random weights
COPIED = "SmolLM2-135M-Instruct"
RANDOM = "smollm2-random"
# What the first block adds to its input is the product of one of these.
ADDED = re.compile(r"(?:.+\.)?layers\.0\.(?:self_attn\.o_proj|mlp\.down_proj)\.weight")
MakeFile = Callable[[Path, Path], None]  # writes the second file, made of the first
LLMWeights = dict[str, Tensor]
ChangeWeights = Callable[[LLMWeights, torch.Generator], LLMWeights]


def write_copy(source: str, folder: Path, changes: Mapping[str, MakeFile]) -> None:
    """Write an LLM's model folder anew, where there is none at that place.

    What an LLM notes of the GGUF that it was made of is left out: the copy is another LLM.

    Args:
        source: the LLM's name or folder.
        changes: by the end of a file's name; other files stay as they are.
    """
    if folder.exists():
        return
    known, beside = model_folder(locate(source)), folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for file in sorted(known.iterdir()):
        if file.suffix != ".gguf" and file.name not in (NOTE, CHECKED) and file.is_file():
            fitting = (change for end, change in changes.items() if file.name.endswith(end))
            next(fitting, shutil.copyfile)(file, beside / file.name)
    beside.rename(folder)


def with_random_weights(tensors: LLMWeights, chance: torch.Generator) -> LLMWeights:
    """The weights of an LLM that learnt nothing: matrices random, norms and biases as they are.

    Args:
        tensors: of which each matrix gives its deviation.
    """

    def drawn(tensor: Tensor) -> Tensor:
        made = torch.randn(tensor.shape, generator=chance) * tensor.float().std()
        return made.to(tensor.dtype)

    return {name: drawn(t) if t.ndim > 1 else t for name, t in tensors.items()}


def with_an_idle_block(tensors: LLMWeights, chance: torch.Generator) -> LLMWeights:
    """The weights of an LLM whose first block's states are its embeddings."""
    idle = {name: torch.zeros_like(t) for name, t in tensors.items() if ADDED.fullmatch(name)}
    return {**tensors, **idle}


def with_random_tokens(tensors: LLMWeights, chance: torch.Generator) -> LLMWeights:
    """The weights of an LLM whose first block has a random vector for each token."""
    return with_an_idle_block(with_random_weights(tensors, chance), chance)


COPIES: dict[str, ChangeWeights] = {
    RANDOM: with_random_weights,
    "smollm2-embeddings": with_an_idle_block,
    "smollm2-tokens": with_random_tokens,
}


def write_lesser(name: str, source: str, folder: Path) -> None:
    """Write one of `COPIES` into a folder, where there is none at that place.

    Args:
        source: the LLM that is copied, its name or folder.
    Raises:
        LiDiTError: what its first block adds is not known by name.
    """
    if COPIES[name] is not with_random_weights:
        _check_first_block(source)
    chance = torch.Generator().manual_seed(SEED)
    write_copy(source, folder, {".safetensors": partial(_written, COPIES[name], chance)})


def _check_first_block(source: str) -> None:
    added: list[str] = []
    for file in checkpoint_files(model_folder(locate(source))):
        with opened(file) as tensors:
            added += filter(ADDED.fullmatch, tensors.keys())
    check(
        len(added) == 2,
        f"the first block of {source} adds to its input by {added or 'no weight known here'}; "
        "expected layers.0.self_attn.o_proj and layers.0.mlp.down_proj, as Llama names them",
    )


def _written(change: ChangeWeights, chance: torch.Generator, file: Path, beside: Path) -> None:
    tensors, notes = read_safetensors(file)
    write_safetensors(beside, change(tensors, chance), notes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.llm_copies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of all")
    options = parser.parse_args(arguments)
    for name in COPIES:
        write_lesser(name, COPIED, options.out / name)


if __name__ == "__main__":
    sys.exit(exit_status("llm_copies", main))
