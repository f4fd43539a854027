"""Draw a picture, and beside it where it looks at each word of its prompt.

The file shows the picture first; then, for every word as each language model reads it, the picture
lit where it attends to that word (cross-attention, the mean over steps, blocks and heads; the
brightest place of each word is its own largest).
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "show where a picture looks at each word of its prompt"
EXAMPLES = """\
examples:
  lidit inspect "two cats and a dog" --out words.png
  lidit inspect "two cats and (a dog:1.5)" --emphasis --model stickers-duo
"""
COLUMNS = 6
LABEL = 14  # pixels above a cell
DARK = 0.15  # of a picture where a word is not looked at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", help="what to draw")
    add("--model", default="stickers", metavar="NAME", help="a name or a checkpoint (stickers)")
    add("--llm", action="append", default=[], metavar="[NAME=]LLM", help="as of `lidit generate`")
    add("--seed", type=int, default=0, metavar="N", help="of the picture (0)")
    add("--steps", type=int, metavar="N", help="sampling steps (the model's)")
    add("--cfg", type=float, metavar="X", help="guidance, 1 = none (the model's)")
    add("--emphasis", action="store_true", help="read weights, as `lidit generate` does")
    add("--out", type=Path, default=Path("words.png"), metavar="FILE", help="a PNG (words.png)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps … (NVIDIA or AMD GPU, else cpu)")


def run(args: argparse.Namespace) -> int:
    from ..inspection import look
    from ..io.pictures import save_picture
    from ..model.text_side import TextOptions
    from ..pipeline import Order, Settings, load_pipeline

    pipeline = load_pipeline(args.model, args.llm, args.device)
    settings = Settings(steps=args.steps, guidance=args.cfg)
    options = TextOptions(emphasis=args.emphasis or None)
    seen = look(pipeline, Order(args.prompt, args.seed), settings, options)
    for word in seen.words:
        print(f"{word.map.mean():6.1%}  {word.word}  ({word.llm})")
    save_picture(args.out, sheet(seen), {"prompt": args.prompt, "seed": args.seed})
    print(args.out)
    return 0


def sheet(seen):
    """The picture and one cell a word, COLUMNS a row: (H, W, 3) uint8."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw

    cells = [("", seen.picture), *((w.word, lit(seen.picture, w.map)) for w in seen.words)]
    high, wide = seen.picture.shape[:2]
    rows = -(-len(cells) // COLUMNS)
    whole = Image.new("RGB", (wide * min(len(cells), COLUMNS), (high + LABEL) * rows), "white")
    draw = ImageDraw.Draw(whole)
    for n, (word, cell) in enumerate(cells):
        x, y = n % COLUMNS * wide, n // COLUMNS * (high + LABEL)
        draw.text((x + 2, y + 1), word.encode("ascii", "replace").decode(), fill="black")
        whole.paste(Image.fromarray(cell.numpy()), (x, y + LABEL))
    return torch.from_numpy(np.array(whole))


def lit(picture, share):
    """The picture (H, W, 3), bright where a map (rows, columns) is large."""
    import torch.nn.functional as F

    share = (share / share.max().clamp(min=1e-9))[None, None]
    light = F.interpolate(share, picture.shape[:2], mode="bilinear")[0, 0, :, :, None]
    return (picture * (DARK + (1 - DARK) * light)).round().byte()
