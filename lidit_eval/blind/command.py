"""Make a page on which two evaluations' pictures are compared without knowing whose they are.

The page is one file: it shows each prompt with both pictures, in random order and on random
sides, and in the end how often each was preferred, with its interval; the choices can be saved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "a page to compare two evaluations by eye"
EXAMPLES = """\
examples:
  lidit eval stickers --every 20 --out before
  lidit eval stickers-duo --every 20 --out after
  lidit blind before after --out blind.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("first", type=Path, metavar="DIR", help="a folder that lidit eval wrote")
    add("second", type=Path, metavar="DIR", help="another, of the same prompts")
    add("--out", type=Path, required=True, metavar="FILE", help="the page, an .html")
    add("--count", type=int, default=50, metavar="N", help="pairs, spread over the prompts (50)")
    add("--seed", type=int, default=0, metavar="N", help="of order and sides (0)")


def run(args: argparse.Namespace) -> int:
    from lidit_core.errors import check
    from lidit_core.io.atomic import replacing

    from ..record import names_of
    from .page import page_of
    from .pairing import identity_of, pairs_of

    check(args.count >= 1, f"--count is {args.count}; expected 1 or more")
    check(
        args.first.resolve() != args.second.resolve(),
        f"{args.first} and {args.second} are one folder; expected two evaluations",
    )
    pairs = pairs_of(args.first, args.second)
    chosen = [pairs[n * len(pairs) // args.count] for n in range(min(args.count, len(pairs)))]
    chosen = chosen if args.count < len(pairs) else pairs
    names = names_of(args.first, args.second)
    page = page_of(chosen, names, args.seed, identity_of(chosen, args.seed))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as beside:
        beside.write_text(page, encoding="utf-8")
    print(f"{len(chosen)} pairs in {args.out}; open it in a browser")
    return 0
