"""The command line `lidit`, also `python -m lidit_core`: one module a verb."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

from .. import __version__
from ..errors import check, exit_status, shown
from . import encode, expand, fetch, generate, info, inspect, record, refiner, stamp

MODULES = (generate, info, inspect, fetch, encode, expand, record, refiner, stamp)
VERBS = {module.__name__.split(".")[-1]: module for module in MODULES}
ABOVE = {
    "train": "lidit_train.command",
    "prompts": "lidit_train.prompts.command",
    "eval": "lidit_eval.command",
    "blind": "lidit_eval.blind.command",
    "ablate": "lidit_stickers.ablation.command",
    "bias": "lidit_stickers.bias.command",
}  # verbs of packages above this one, where they are there

EXAMPLES = """\
a first picture:
  lidit fetch smollm2                                   the language model, once (93 MB)
  lidit generate "a cat to the left of a dog"           picture.png in this folder

then:
  lidit generate --help                                 all that a picture can be told
  lidit info stickers                                   what is inside the shipped weights
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lidit",
        description="LI-DiT: pictures from prompts that a language model reads.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lidit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in {**VERBS, **_above()}.items():
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def _above() -> dict[str, ModuleType]:
    there = {v: m for v, m in ABOVE.items() if importlib.util.find_spec(m.split(".")[0])}
    return {verb: importlib.import_module(module) for verb, module in there.items()}


class AboveBars(logging.StreamHandler):
    """Writes to stderr; a progress bar that stands there moves down a line and stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        shown = sys.modules.get("tqdm")  # imported by whoever shows a bar
        with shown.tqdm.external_write_mode(self.stream) if shown else contextlib.nullcontext():
            super().emit(record)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whose encoding may lack what we write
            stream.reconfigure(errors="replace")
    logging.basicConfig(format="lidit: %(message)s", level=logging.WARNING, handlers=[AboveBars()])
    logging.getLogger("lidit_core").setLevel(logging.INFO)
    return exit_status("lidit", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    for word in words:
        check("\0" not in word, f"the word {shown(word)} holds a zero byte; leave that out")
    args = build_parser().parse_args(words)
    return args.run(args)
