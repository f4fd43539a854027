"""Draw a picture of a prompt, or one of every line of a file.

A single picture goes to picture.png, or to the file or folder that --out names; several go into
the folder --out as 00000.png, 00001.png and so on. Steps, guidance and size are those that the
model was made for unless you say otherwise. The same command draws the same pictures again.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from ..dtypes import DEFAULT, DTYPES, torch_dtype
from ..errors import LiDiTError
from ..paths import states_folder

OTHER_PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".svg")
HELP = "draw pictures from prompts"

EXAMPLES = """\
examples:
  lidit generate "a cat to the left of a dog"
  lidit generate "three apples on a yellow background" --seed 7 --out apples.png
  lidit generate "a frog" --count 4 --out frogs           four pictures, seeds 0 to 3
  lidit generate --prompts prompts.txt --out pictures     one a line: 00000.png, 00001.png …
  lidit generate "a red car" --model stickers-duo         two language models together
  lidit generate "a fox" --model my.safetensors --llm SmolLM2-135M-Instruct=models/SmolLM2
  lidit generate "a fox" --lora style.safetensors:0.8     with a LoRA, at 0.8 of its strength
  lidit generate "two cats and (a dog:1.5)" --emphasis    the dog counts more than the cats
  lidit generate "a fox" --dtype bf16                     in half the memory, rounded more

seeds:
  Picture k of a run (from 0) has the seed --seed + k. Every PNG carries its own seed, so one
  picture of a long list can be drawn again alone: generate "its prompt" --seed ITS_SEED.

models:
  stickers        SmolLM2 alone          stickers-duo    SmolLM2 and Gemma 3 together
  or the path of a checkpoint (.safetensors); it says itself which language models it reads.
"""


def size_of(text: str) -> tuple[int, int]:
    """Read ``128`` or ``192x128`` as (width, height)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 128, or 192x128 (wide, high)")
    return int(parts[0]), int(parts[-1])


def lora_of(text: str) -> tuple[str, float]:
    """Read ``FILE`` or ``FILE:STRENGTH`` as the file and the strength, 1 where none is given."""
    path, colon, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        return text, 1.0  # also where the colon is a drive's
    if not (path and math.isfinite(strength)):
        raise argparse.ArgumentTypeError(f"{text!r} is no LoRA; write FILE, or FILE:0.8")
    return path, strength


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", nargs="?", help="what to draw")
    add("--prompts", type=Path, metavar="FILE", help="draw every line of this file instead")
    add("--negative", default="", metavar="TEXT", help="what to steer away from (nothing)")
    add("--model", default="stickers", metavar="NAME", help="a name or a checkpoint (stickers)")
    add(
        "--llm",
        action="append",
        default=[],
        metavar="[NAME=]LLM",
        help="language model: a name, a model folder, a .gguf, a .safetensors, a bridge or "
        "hub:owner/name; once for each (those of the model)",
    )
    add_lora(parser)
    add_emphasis(parser)
    add("--seed", type=int, default=0, metavar="N", help="of the first picture (0)")
    add("--count", type=int, default=1, metavar="N", help="pictures of every prompt (1)")
    add("--steps", type=int, metavar="N", help="sampling steps (the model's)")
    add("--cfg", type=float, metavar="X", help="guidance, 1 = none (the model's)")
    add("--size", type=size_of, metavar="WxH", help="in pixels, 128 or 192x128 (the model's)")
    add("--out", type=Path, metavar="PATH", help="file or folder (picture.png, or pictures/)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps … (NVIDIA or AMD GPU, else cpu)")
    add_dtype(parser)
    add_for_llms(parser)


def add_emphasis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--emphasis",
        action="store_true",
        help="read (word:1.3), ((word)) and \\( in prompts as ComfyUI does (plain text)",
    )


def add_dtype(parser: argparse.ArgumentParser, default: str | None = DEFAULT) -> None:
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default=default,
        help="what LI-DiT computes in (float32); the others halve its memory, round more and are "
        "slower on a CPU without instructions for them, and float16 may overflow",
    )


def add_lora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        action="append",
        type=lora_of,
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a LoRA trained on the model; once for each (none)",
    )


def add_for_llms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spread",
        action="store_true",
        help="share language models that are too large for the GPU out over all GPUs and the "
        "CPU's memory",
    )
    parser.add_argument(
        "--cache",
        nargs="?",
        type=Path,
        const=states_folder(),
        metavar="DIR",
        help="keep the language models' states on disk: a prompt that was used before does "
        "not load them again (without DIR, in the user cache; write it after the prompt)",
    )


def fix_arithmetic() -> None:
    """Make sums equal on every run: neither MKL nor cuDNN may choose another order for them."""
    os.environ.setdefault("MKL_CBWR", "AUTO")  # read by MKL at its first use
    import torch

    torch.set_num_threads(torch.get_num_threads())  # else MKL takes fewer on a busy machine
    torch.backends.cudnn.deterministic = True


def run(args: argparse.Namespace) -> int:
    fix_arithmetic()
    from ..pipeline import Order, Settings, load_pipeline

    prompts = _prompts(args)
    orders = [
        Order(prompt, args.seed + i * args.count + copy)
        for i, prompt in enumerate(prompts)
        for copy in range(args.count)
    ]
    paths = _paths(args, len(orders))
    settings = Settings(args.negative, args.steps, args.cfg, args.size, args.emphasis)
    where = args.device, args.cache, args.spread
    dtype = torch_dtype(args.dtype)
    pipeline = load_pipeline(args.model, args.llm, *where, args.lora, dtype=dtype)
    _draw(pipeline, orders, settings, paths, args)
    return 0


def _prompts(args: argparse.Namespace) -> list[str]:
    from ..io.prompts import read_prompts

    if (args.prompt is None) == (args.prompts is None):
        raise LiDiTError("expected either a prompt or --prompts FILE; see lidit generate --help")
    if args.count < 1:
        raise LiDiTError(f"--count is {args.count}; expected 1 or more")
    return [args.prompt] if args.prompts is None else read_prompts(args.prompts)


def _paths(args: argparse.Namespace, count: int) -> list[Path]:
    """The files that the pictures are written to; a file name is only good for one picture."""
    suffix = args.out.suffix.lower() if args.out else ""
    if suffix in OTHER_PICTURES:
        raise LiDiTError(
            f"--out {args.out} asks for a {suffix} file and pictures are PNGs; name it "
            f"{args.out.with_suffix('.png')}, or give a folder"
        )
    is_file = suffix == ".png"
    if is_file and (count > 1 or args.prompts):
        raise LiDiTError(f"--out {args.out} names one file for {count} pictures; name a folder")
    if is_file:
        return [args.out]
    if args.out is None and not args.prompts and count == 1:
        return [Path("picture.png")]
    folder = args.out or Path("pictures")
    return [folder / f"{number:05}.png" for number in range(count)]


def _draw(pipeline, orders, settings, paths: list[Path], args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from .. import __version__
    from ..io.pictures import save_picture

    config = pipeline.model.config
    filled = settings.filled(config)
    shared = {
        "negative": filled.negative,
        "steps": filled.steps,
        "cfg": filled.guidance,
        "size": list(filled.size),
        "model": Path(args.model).name,
        "loras": [[Path(path).name, strength] for path, strength in args.lora],
        "llms": [config.llms[branch].name for branch in pipeline.encoders],
        "lidit": __version__,
        **({"emphasis": True} if args.emphasis else {}),
        **({"dtype": args.dtype} if args.dtype != DEFAULT else {}),
    }
    with tqdm(total=len(orders) * filled.steps, unit="step", disable=None, leave=False) as bar:
        pictures = pipeline.pictures(orders, settings, bar.update)
        for order, path, pixels in zip(orders, paths, pictures):
            save_picture(path, pixels, {"prompt": order.prompt, "seed": order.seed, **shared})
            bar.write(f"{path}  seed {order.seed}  {order.prompt}")
