"""Draw prompts with fixed seeds, judge the pictures, and report how many show what was asked.

Pictures, verdicts and the report go into the folder --out; the same command goes on where it
stopped. With --pictures nothing is drawn: pictures made elsewhere are judged. With --against the
prompts' scores are compared, in pairs, with those of an earlier evaluation's folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lidit_core.errors import check

if TYPE_CHECKING:
    from .report import Judged

HELP = "draw and judge pictures of many prompts"

EXAMPLES = """\
examples:
  lidit eval stickers --out before                          the stickers' 1,080 fixed prompts
  lidit eval my.safetensors --out after --against before    and whether a fine-tune helped
  lidit eval stickers --prompts paraphrases --every 10 --out some
  lidit eval --prompts evaluation --write prompts.txt            for pictures made elsewhere,
  lidit eval --prompts evaluation --pictures DIR --out scores    then 00000.png … in DIR
  lidit eval stickers-sd --adapter stickers-adapter --mode add --out adapted
  lidit eval stickers-sd --bridge runs/bridge/final.safetensors --out bridged

benchmarks, from their own files:
  lidit eval my.safetensors --prompts geneval:evaluation_metadata.jsonl --count 4 --out g
      also t2i-compbench:color_val.txt and dpg-bench:prompts (their folder); the pictures lie in
      g/samples as the official evaluators read them
  … --judge detector:MODEL,CLIP     GenEval's protocol with a detector and a CLIP of transformers
  … --judge vqa:MODEL               DPG-Bench's with a model that answers questions

of any prompts and pictures, by a CLIP or SigLIP of transformers:
  … --judge likeness:MODEL          the cosine of picture and prompt
  … --judge quality:MODEL           CLIP-IQA
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from lidit_core.cli.generate import (
        add_dtype,
        add_emphasis,
        add_for_llms,
        add_lora,
        size_of,
    )

    add = parser.add_argument
    add("model", nargs="?", help="a name or a checkpoint; a base where there is an --adapter")
    add("--prompts", default="evaluation", metavar="LIST", help="a list of prompts (evaluation)")
    add("--out", type=Path, metavar="DIR", help="folder of this evaluation")
    add("--write", type=Path, metavar="FILE", help="only write the prompts into it, one a line")
    add("--pictures", type=Path, metavar="DIR", help="judge these instead of drawing")
    add("--judge", metavar="NAME", help="stickers, none, detector:MODEL and others below")
    add("--against", type=Path, metavar="DIR", help="an earlier evaluation to compare with")
    add("--every", type=int, default=1, metavar="N", help="only every Nth prompt (1)")
    add("--count", type=int, default=1, metavar="N", help="pictures of every prompt (1)")
    add("--seed", type=int, metavar="N", help="of the first picture (0)")
    add("--steps", type=int, metavar="N", help="sampling steps (the model's)")
    add("--cfg", type=float, metavar="X", help="guidance, 1 = none (the model's)")
    add("--size", type=size_of, metavar="WxH", help="in pixels (the model's)")
    add("--adapter", metavar="FILE", help="an LLMDiff adapter for the model")
    add(
        "--bridge",
        metavar="FILE",
        help="a bridge in the place of the model's text encoder, or one that adds to it",
    )
    add("--vae", metavar="FILE", help="the autoencoder of a U-Net's checkpoint without one")
    add("--mode", choices=("add", "replace", "base"), help="of the adapter (add)")
    add("--llm", action="append", default=[], metavar="[NAME=]LLM", help="as for generate")
    add_lora(parser)
    add_emphasis(parser)
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps … (NVIDIA or AMD GPU, else cpu)")
    add_dtype(parser, default=None)
    add_for_llms(parser)


def run(args: argparse.Namespace) -> int:
    from lidit_core.cli.generate import fix_arithmetic

    if args.write is not None:
        return _write(args)
    check(args.out is not None, "expected --out DIR, the folder of this evaluation")
    check(
        (args.model is None) == (args.pictures is not None),
        "expected either a model to draw with or --pictures DIR; see lidit eval --help",
    )
    fix_arithmetic()
    from .evaluation import Evaluation

    print(Evaluation(args).run(), end="")
    return 0


def _write(args: argparse.Namespace) -> int:
    from lidit_core.io.atomic import replacing

    from .items import items_of, tasks_of
    from .options import complete

    complete(args)
    check(
        args.count == 1,
        f"--count {args.count} is of pictures, and --write writes each prompt once; leave --count "
        "out here, and give it with --pictures",
    )
    tasks = tasks_of(items_of(args.prompts), args.seed, 1, args.every)
    with replacing(args.write) as beside:
        lines = (" ".join(task.item.prompt.splitlines()) for task in tasks)  # one a prompt
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(tasks)} prompts in {args.write}")
    return 0


def evaluate(*words: str) -> list[Judged]:
    """Run ``lidit eval WORDS``, write its report, and return every picture's verdict."""
    from .evaluation import Evaluation

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    evaluation = Evaluation(parser.parse_args(words))
    evaluation.run()
    return evaluation.judged()
