"""Write one LLM's refiner out of a LI-DiT checkpoint, to be put into another of the same sizes."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write one LLM's refiner into a file of its own"
EXAMPLES = """\
  lidit refiner finetuned.safetensors --llm gemma-3-270m --out gemma-refiner.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="a name (stickers) or a checkpoint")
    add("--llm", required=True, metavar="NAME", help="the LLM whose branch is written")
    add("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")


def run(args: argparse.Namespace) -> int:
    from ..checkpoints.refiner import save_refiner
    from ..shipped import find_model

    path, _ = find_model(args.checkpoint)
    save_refiner(path, args.llm, args.out)
    print(args.out)
    return 0
