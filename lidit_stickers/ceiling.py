"""The best that any model can score: drawn scenes as the autoencoder gives them back.

    python -m lidit_stickers.ceiling --out DIR
    lidit eval --pictures DIR --out OUT

The first draws every prompt as it should be and sends it through the autoencoder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.errors import exit_status
from lidit_core.paths import SHIPPED_WEIGHTS

from .score import PROMPTS
from .scorer.damage import reconstruct
from .scorer.selftest import drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for 00000.png, …")
    parser.add_argument("--prompts", choices=tuple(PROMPTS), default="evaluation")
    parser.add_argument("--vae", type=Path, default=SHIPPED_WEIGHTS / "stickers-vae.safetensors")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    options = parser.parse_args()
    vae = load_vae(options.vae)
    options.out.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(drawn(PROMPTS[options.prompts](), options.size)):
        Image.fromarray(reconstruct(vae, picture)).save(options.out / f"{i:05d}.png")


if __name__ == "__main__":
    sys.exit(exit_status("ceiling", main))
