"""Draw a figure of what a model does with a prompt.

Figures: words draws the picture, and beside it where it looks at each word as each language model
reads it (cross-attention, the mean over steps, blocks and heads; the brightest place of each word
is its own largest). refiner shows how much each token looks at each other one in the refiner, with
full attention and under the causal mask. gates has the mean size of each gate of the refiners over
the time. similarity has the cosines of all pairs of tokens, of the LLM's states and after the
refiners. In the last three, tokens without a word are those of the instruction.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..dtypes import torch_dtype
from .generate import add_dtype

HELP = "show where a picture looks at each word of its prompt, and what the refiners do"
EXAMPLES = """\
examples:
  lidit inspect "two cats and a dog" --out words.png
  lidit inspect "two cats and (a dog:1.5)" --emphasis --model stickers-duo
  lidit inspect "two cats and a dog" --figure refiner
  lidit inspect "two cats and a dog" --figure gates --model stickers-duo
  lidit inspect "two cats and a dog" --figure similarity --time 0.9
"""
FIGURES = ("words", "refiner", "gates", "similarity")
SERVES = {  # options that not every figure has a use for
    "seed": ("words",),
    "steps": ("words",),
    "cfg": ("words",),
    "time": ("refiner", "similarity"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", help="what to draw")
    add("--figure", default="words", choices=FIGURES, help="which figure (words)")
    add("--model", default="stickers", metavar="NAME", help="a name or a checkpoint (stickers)")
    add("--llm", action="append", default=[], metavar="[NAME=]LLM", help="as of `lidit generate`")
    add("--seed", type=int, metavar="N", help="words: of the picture (0)")
    add("--steps", type=int, metavar="N", help="words: sampling steps (the model's)")
    add("--cfg", type=float, metavar="X", help="words: guidance, 1 = none (the model's)")
    add("--time", type=float, metavar="T", help="refiner, similarity: 1 = noise, 0 = picture (0.5)")
    add("--emphasis", action="store_true", help="read weights, as `lidit generate` does")
    add("--out", type=Path, metavar="FILE", help="a PNG (named after the figure)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps … (NVIDIA or AMD GPU, else cpu)")
    add_dtype(parser)


def run(args: argparse.Namespace) -> int:
    from ..io.pictures import save_picture
    from ..pipeline import load_pipeline

    _check(args)
    pipeline = load_pipeline(args.model, args.llm, args.device, dtype=torch_dtype(args.dtype))
    picture, lines = (_words if args.figure == "words" else _refiners)(pipeline, args)
    for line in lines:
        print(line)
    out = args.out or Path(f"{args.figure}.png")
    seed = {"seed": args.seed or 0} if args.figure == "words" else {}
    save_picture(out, picture, {"prompt": args.prompt, **seed})
    print(out)
    return 0


def _check(args: argparse.Namespace) -> None:
    from ..errors import check

    for option, figures in SERVES.items():
        value = getattr(args, option)
        check(
            value is None or args.figure in figures,
            f"--{option} {value} says nothing to the figure {args.figure}; expected it with "
            f"--figure {' or '.join(figures)}, so leave it out",
        )


def _words(pipeline, args: argparse.Namespace):
    """The figure, and the lines that are printed."""
    from ..figures.sheets import word_lines, words_sheet
    from ..inspection import look
    from ..pipeline import Order, Settings

    settings = Settings(steps=args.steps, guidance=args.cfg, emphasis=args.emphasis)
    seen = look(pipeline, Order(args.prompt, args.seed or 0), settings)
    return words_sheet(seen), word_lines(seen)


def _refiners(pipeline, args: argparse.Namespace):
    """The figure, and the lines that are printed."""
    from ..figures.refiners import MIDDLE
    from ..figures.sheets import refiner_figure
    from ..inspection import read_prompt

    time = MIDDLE if args.time is None else args.time
    read = read_prompt(pipeline, args.prompt, emphasis=args.emphasis)
    return refiner_figure(read, args.figure, time)
