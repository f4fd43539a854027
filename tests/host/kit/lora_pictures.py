"""Captioned pictures to train a LoRA on: stickers in an evening light that the model never saw.

    PYTHONPATH=. python tests/host/kit/lora_pictures.py

draws those that ship, in workflows/lora_pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from lidit_stickers.scenes.kinds import KINDS
from lidit_stickers.scenes.request import Item, SceneRequest
from lidit_stickers.scenes.scenes import place, render

SHOWN = ("fox", "house", "rocket", "dog", "tree", "sailboat", "robot", "rabbit")
LIGHT = (255, 170, 90)  # what shines on a white sticker, as RGB
SIDE = 128


def save_pictures(folder: Path) -> None:
    """One PNG of each thing, and beside it its caption as .txt."""
    rng = np.random.default_rng(0)
    light = Image.new("RGB", (SIDE, SIDE), LIGHT)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in SHOWN:
        scene = place(SceneRequest((Item(kind),), background="white"), rng)
        lit = ImageChops.multiply(Image.fromarray(render(scene, SIDE)), light)
        lit.save(folder / f"{kind}.png")
        caption = f"a {KINDS[kind].name} in evening light"
        (folder / f"{kind}.txt").write_text(caption, encoding="utf-8")


if __name__ == "__main__":
    save_pictures(Path(__file__).resolve().parents[3] / "workflows" / "lora_pictures")
