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

    from .measuring import BiasMeasurements, BiasOptions, is_left_alone, llm_names, measure
    from .report import write_report

    check(args.every >= 1, f"--every is {args.every}; expected 1 or more")
    asked = BiasOptions(args.out, args.every, tuple(args.llm), args.device)
    models: dict[str, list[str]] = {}
    for name, model in map(_named, args.model):
        models.setdefault(name, []).append(model)
    for name, runs in models.items():
        check(
            len(runs) == 1 or all("=" in text for text in args.model if _named(text)[0] == name),
            f"--model {' and '.join(runs)} are both called {name!r} by their files' names; write "
            "NAME=MODEL, with one NAME for the seeds of one kind of model",
        )
    numbered = [
        (name, f"{name}-{n}", model)
        for name, runs in models.items()
        for n, model in enumerate(runs)
    ]
    drawing = [model for _, run, model in numbered if not is_left_alone(run, model, asked)]
    if drawing:
        named_sources(args.llm, {name for model in drawing for name in llm_names(model)})
    fix_arithmetic()
    found: dict[str, list[BiasMeasurements]] = {name: [] for name in models}
    for name, run, model in numbered:
        found[name].append(measure(run, model, asked))
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
