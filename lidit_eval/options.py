"""Whether the options of `lidit eval` fit together, and what those are that were left out."""

from __future__ import annotations

import argparse
from typing import Any

from lidit_core.dtypes import DEFAULT
from lidit_core.errors import check
from lidit_core.pipeline import Settings

DRAWING = (  # options that say how pictures are drawn
    *("seed", "steps", "cfg", "size", "adapter", "bridge", "mode"),
    *("vae", "llm", "lora", "emphasis", "dtype", "spread", "cache"),
)


def complete(args: argparse.Namespace) -> None:
    """Fill in the seed, the mode and the dtype, once all options fit together.

    Raises:
        LiDiTError: an option has no effect, or is none that a model draws with.
    """
    there = "--pictures" if args.pictures else "--write" if args.write else ""
    given = [f"--{name}" for name in DRAWING if _is_given(getattr(args, name))]
    check(
        not (there and given),
        f"{', '.join(given)} would say how pictures are drawn, and with {there} none are; leave it "
        f"out, or name a model to draw with instead of {there}",
    )
    check(
        args.mode is None or bool(args.adapter),
        f"--mode {args.mode} is an adapter's, and there is none; name one with --adapter, or leave "
        "--mode out",
    )
    unet = "--adapter" if args.adapter else "--bridge" if args.bridge else ""
    check(
        args.dtype is None or not unet,
        f"--dtype {args.dtype} is what a LI-DiT computes in, and with {unet} a U-Net draws; leave "
        "--dtype out",
    )
    check(
        not (args.emphasis and unet),
        f"--emphasis weighs the words that a LI-DiT reads, and with {unet} a U-Net draws; leave "
        "--emphasis out",
    )
    check(
        args.vae is None or bool(unet) or there != "",
        f"--vae {args.vae} is a U-Net's, and a LI-DiT's autoencoder lies beside it; leave --vae "
        "out, or put the autoencoder there",
    )
    Settings("", args.steps, args.cfg, args.size)  # refuses those that no model draws with
    args.seed = 0 if args.seed is None else args.seed
    args.mode = "add" if args.mode is None else args.mode
    args.dtype = DEFAULT if args.dtype is None else args.dtype


def _is_given(value: Any) -> bool:
    """Whether an option is on the command line; a number is, 0 too."""
    return value is not None and value is not False and value != []
