"""Train a LI-DiT, its refiners, a LoRA or an adapter from a recipe; the same command again goes on.

DIR/final.safetensors is what comes out; DIR holds checkpoints, caches, grids and the log too. On
four GPUs: python -m torch.distributed.run --nproc_per_node 4 -m lidit_core train RECIPE --out DIR
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HELP = "train from a recipe: a model, refiners for another LLM, a LoRA, an adapter"
EXAMPLES = """\
examples:
  lidit train recipes/smoke.yaml --out runs/smoke           a minute, to see that all works
  lidit train --print-plan recipes/LI-DiT-1B.yaml           memory, hours and caches, beforehand
  lidit train recipes/finetune.yaml --out runs/mine --set data.sources.0.path=my-pictures
  lidit train --fields                                      every field of a recipe
  lidit train recipes/smoke.yaml --out runs/smoke --export 50         a loadable file of its step 50
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("recipe", type=Path, nargs="?", metavar="RECIPE", help="a YAML file; recipes/ has some")
    add("--out", type=Path, metavar="DIR", help="the run's folder")
    add("--print-plan", action="store_true", help="say what the run needs, and do not run it")
    add(
        "--fields",
        nargs="?",
        const="text",
        choices=("text", "markdown", "schema"),
        help="print every field of a recipe, as docs/fields.md or a JSON schema for editors",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY.SUB=VALUE",
        help="change a field of the recipe; a number is a place in a list; repeat",
    )
    add("--llm", action="append", default=[], metavar="NAME=LLM", help="where an LLM is; repeat")
    add(
        "--export",
        type=int,
        metavar="STEP",
        help="write the loadable file of a checkpoint of --out",
    )
    add("--upload", metavar="OWNER/NAME", help="upload what is written to Hugging Face's hub")
    add("--clear-cache", action="store_true", help="delete cached files that RECIPE does not read")
    add(
        "--wait",
        type=minutes,
        metavar="MINUTES",
        help="how long processes wait for one that is halted (else 30, and 10 on GPUs)",
    )
    add("--device", choices=("cpu",), help="keep the run off the GPU that there is")


def minutes(text: str) -> float:
    """A time in minutes that a command names."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write minutes, as 90 or 0.5")
    return number


def run(args: argparse.Namespace) -> int:
    from .loop.voice import one_voice

    logging.getLogger("lidit_train").setLevel(logging.INFO)
    with one_voice():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from lidit_core.errors import LiDiTError

    from .recipe_file import read_recipe

    if args.fields:
        return _print_fields(args.fields)
    if args.recipe is None:
        raise LiDiTError("RECIPE is missing; name a YAML file, as lidit train recipes/smoke.yaml")
    recipe = read_recipe(args.recipe, args.set)
    if args.print_plan:
        return _print_plan(recipe, args.out or Path("."), args.device)
    if args.out is None:
        raise LiDiTError("--out is missing; name the folder of the run, as --out runs/mine")
    if args.export is not None:
        return _export(recipe, args)
    if args.clear_cache:
        return _clear_cache(recipe, args)
    return _train(recipe, args)


def _print_fields(how: str) -> int:
    from .field_list.pages import as_markdown, as_text
    from .field_list.schema import as_schema

    made = {"text": as_text, "markdown": as_markdown, "schema": as_schema}[how]()
    print(made, end="")
    return 0


def _print_plan(recipe, folder: Path, device: str | None) -> int:
    from .plan.hardware import THIS_CPU
    from .tasks.task import open_task

    if device is not None:
        hardware = dataclasses.replace(recipe.hardware, device=THIS_CPU)
        recipe = dataclasses.replace(recipe, hardware=hardware)
    print(open_task(recipe).plan(folder), end="")
    return 0


def _export(recipe, args: argparse.Namespace) -> int:
    from .run import export

    _check_upload(args)
    file = export(recipe, args.out, args.export, args.device, _sources(args.llm, recipe))
    _give(file, args)
    return 0


def _check_upload(args: argparse.Namespace) -> None:
    from .hub import check_upload
    from .loop.voice import is_first

    if args.upload is not None and is_first():
        check_upload(args.upload)


def _give(file: Path, args: argparse.Namespace) -> None:
    """Print what was written, and upload it where that is asked for."""
    from .hub import upload

    print(file)
    if args.upload is not None:
        print(upload(file, args.upload))


def _clear_cache(recipe, args: argparse.Namespace) -> int:
    from .run import clear_caches
    from .units import as_bytes

    sizes = clear_caches(recipe, args.out, args.device, _sources(args.llm, recipe))
    told = "cached files that the recipe does not read are deleted"
    print(f"{len(sizes)} {told}: {as_bytes(sum(sizes))}")
    return 0


def _train(recipe, args: argparse.Namespace) -> int:
    from .loop.stopping import Stopped
    from .loop.voice import is_first
    from .run import train

    _check_upload(args)
    try:
        with steps_bar(recipe, is_first()) as on_step:
            final = train(
                recipe, args.out, args.device, _sources(args.llm, recipe), on_step, args.wait
            )
    except Stopped as stopped:
        if is_first():
            print(f"lidit: {stopped}", file=sys.stderr)
        return 128 + stopped.number  # as shells say it
    if is_first():
        _give(final, args)
    return 0


@contextlib.contextmanager
def steps_bar(recipe, is_shown: bool) -> Iterator[Callable[[int, float], None]]:
    """Give what shows each step's number and loss on a terminal.

    The bar begins with the first step that this command makes, so that the time it tells is that
    of steps: neither the caches that were filled before count nor what an earlier command made.
    """
    from tqdm import tqdm

    from .data.schedule import stage_at

    with contextlib.ExitStack() as shown:
        bars: list[tqdm] = []

        def on_step(step: int, loss: float) -> None:
            first = not bars
            if first:
                options = {"initial": step, "disable": None if is_shown else True}
                begun = tqdm(total=recipe.steps, unit="step", **options)
                bars.append(shown.enter_context(begun))
            (bar,) = bars
            batch = stage_at(step - 1, recipe.stages)[1].batch
            rate = batch * (bar.format_dict["rate"] or 0)
            speed = f", {rate:.1f} images/s" if rate else ""
            bar.set_postfix_str(f"loss {loss:.3f}{speed}", refresh=first)
            bar.update(step - bar.n)

        yield on_step


def _sources(given: list[str], recipe) -> dict[str, str]:
    """Read where LLMs are, by the names that the recipe has for them."""
    from lidit_core.branches import named_sources

    from .tasks.task import open_task

    if not given:
        return {}
    task = open_task(recipe)
    return named_sources(given, {*task.llms, *task.read_llms()})
