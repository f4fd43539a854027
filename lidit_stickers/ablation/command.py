"""Train and score the variants of one file, and compare them in one table beside the paper's.

Every variant is forked from the same trunk with a text side of its own, and learns from the same
scenes, captions, times and noise. The same command goes on where it stopped; started twice, it
shares the runs between both processes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

HELP = "train and compare variants of the text side"
EXAMPLES = """\
examples:
  lidit ablate --print-plan recipes/ablate.yaml             how many hours, beforehand
  lidit ablate recipes/ablate.yaml --out runs/ablate        and the same again goes on
  lidit ablate recipes/ablate.yaml --out runs/few --set "seeds=[0]" --set score.every=0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("ablation", type=Path, metavar="FILE", help="a YAML file, as recipes/ablate.yaml")
    add("--out", type=Path, metavar="DIR", help="folder of the runs and of the table")
    add("--print-plan", action="store_true", help="say how many hours it takes, and do not run it")
    add("--set", action="append", default=[], metavar="KEY.SUB=VALUE", help="change a field")
    add("--llm", action="append", default=[], metavar="NAME=LLM", help="where an LLM is; repeat")
    add("--device", metavar="NAME", choices=("cpu",), help="keep the runs off the GPU there is")


def run(args: argparse.Namespace) -> int:
    from lidit_core.branches import named_sources
    from lidit_core.cli.generate import fix_arithmetic
    from lidit_core.errors import check
    from lidit_train.loop.voice import one_voice

    from .variants import read_ablation

    ablation = read_ablation(args.ablation, args.set)
    names = {name for variant in ablation.variants for name in ablation.llms(variant)}
    llms = named_sources(args.llm, names | {read.name for read in ablation.readings.values()})
    if args.print_plan:
        from .hours import plan_text

        print(plan_text(ablation, args.out or Path("."), llms, args.device), end="")
        return 0
    check(args.out is not None, "--out is missing; name the folder of the runs, as --out runs/mine")
    fix_arithmetic()
    logging.getLogger("lidit_train").setLevel(logging.INFO)
    with one_voice():
        return _run(ablation, args, llms)


def _run(ablation, args: argparse.Namespace, llms: Mapping[str, str]) -> int:
    from lidit_train.loop.stopping import Stopped

    from .running import Ablating

    with _Bar() as bar:
        try:
            asked = ablation, args.out, llms, args.device, bar.tell, args.set
            table = Ablating(*asked).run()
        except Stopped as stopped:
            print(f"lidit: {stopped}", file=sys.stderr)
            return 128 + stopped.number  # as shells say it
    print(table, end="")
    return 0


class _Bar:
    """The steps of the run that is trained."""

    def __init__(self) -> None:
        self.what, self.bar = "", None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def tell(self, what: str, step: int, steps: int) -> None:
        from tqdm import tqdm

        if what != self.what:
            self.__exit__()
            self.what, self.bar = what, tqdm(total=steps, desc=what, unit="step", disable=None)
        assert self.bar is not None
        self.bar.update(step - self.bar.n)
