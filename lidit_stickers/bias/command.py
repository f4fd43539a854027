"""Measure how much a model loses that its prompt says late, and whether another loses less.

The same requests are worded with number and colour early and late; lists of coloured things are
asked for in both orders. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "what is lost of a prompt's last words"
EXAMPLES = """\
examples:
  lidit bias --model stickers --out runs/bias
  lidit bias --model none=a.safetensors --model causal=b.safetensors --model full=c.safetensors \\
      --out runs/bias                                        and how they differ
  lidit bias --model full=c-0.safetensors --model full=c-1.safetensors --out runs/bias
                                                             two seeds of one model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]MODEL",
        help="a shipped name or a file; repeat, under the same name for other seeds of it",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder of pictures and report")
    add("--every", type=int, default=1, metavar="N", help="only every Nth request (1)")
    add("--llm", action="append", default=[], metavar="NAME=LLM", help="where an LLM is; repeat")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps … (NVIDIA or AMD GPU, else cpu)")


def run(args: argparse.Namespace) -> int:
    from lidit_core.branches import named_sources
    from lidit_core.cli.generate import fix_arithmetic
    from lidit_core.errors import check

    from .measuring import BiasMeasurements, BiasOptions, llm_names, measure
    from .report import write_report

    check(args.every >= 1, f"--every is {args.every}; expected 1 or more")
    names = {name for text in args.model for name in llm_names(_named(text)[1])}
    named_sources(args.llm, names)
    fix_arithmetic()
    asked = BiasOptions(args.out, args.every, tuple(args.llm), args.device)
    found: dict[str, list[BiasMeasurements]] = {}
    for text in args.model:
        name, model = _named(text)
        runs = found.setdefault(name, [])
        runs.append(measure(f"{name}-{len(runs)}", model, asked))
    print(write_report(found, args.out), end="")
    return 0


def _named(text: str) -> tuple[str, str]:
    """A model's name in the report, and where it is."""
    from lidit_core.errors import check

    name, equals, model = text.partition("=")
    if not equals:
        name, model = Path(text).stem, text
    plain = name.replace("-", "").replace("_", "")
    check(
        plain.isalnum(),
        f"--model {text!r} is called {name!r}; expected letters, digits, - and _: write NAME=MODEL",
    )
    return name, model
