"""Whether nodes that guide help: pictures drawn in the host with and without such a node.

``"$COMFYUI_PYTHON" -m benchmarks.guidance --out DIR`` with COMFYUI_PATH set. Each way of guiding
has a folder there, for ``lidit eval --pictures``; prompts and seeds are those of ``lidit eval``.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .host import STEPS, load_host

NODES = {  # what is written: the host's file, its node, and the names of its numbers
    "nag": ("nodes_nag", "NAGuidance", ("nag_scale", "nag_alpha", "nag_tau")),
    "pag": ("nodes_pag", "PerturbedAttentionGuidance", ("scale",)),
}
WAYS = (
    "cfg=3", "cfg=3,pag=0.5", "cfg=3,pag=1", "cfg=3,pag=3", "cfg=3,nag=2:0.25:1.5",
    "cfg=3,nag=5:0.5:1.5", "cfg=1", "cfg=1,pag=3", "cfg=1,nag=5:0.5:1.5",
)  # fmt: skip


class Guided:
    """A LI-DiT in the host, and what guides it."""

    def __init__(self, module: Callable[[str], Any], model: str) -> None:
        models, files = module("host.lidit.model"), module("host.lidit.files")
        path = files.find_file(model)
        self.patcher = models.load_model(path, "default")
        self.config = models.config_of_model(self.patcher)
        self.vae = files.vae_of(self.config, path)
        spec = self.config.llms[0]  # the others are left out
        read = module("host.llm.reader").LLMSettings(spec.name, spec.template, spec.block)
        self.clip = module("host.llm.clip").open_clip(read)

    def patched(self, way: str) -> tuple[Any, float]:
        """The model with the node that ``cfg=3,nag=5:0.5:1.5`` names, and the guidance."""
        asked = dict(word.split("=") for word in way.split(","))
        cfg, model = float(asked.pop("cfg")), self.patcher
        for name, numbers in asked.items():
            file, node, inputs = NODES[name]
            given = dict(zip(inputs, map(float, numbers.split(":")), strict=True))
            found = getattr(importlib.import_module(f"comfy_extras.{file}"), node)
            model = found.execute(model=model, **given).args[0]
        return model, cfg

    def picture(self, way: str, prompt: str, seed: int) -> Any:
        """Draw a prompt's picture in one way: (H, W, 3) uint8."""
        import torch

        from nodes import CLIPTextEncode, common_ksampler

        model, cfg = self.patched(way)
        side = self.config.native_size // self.config.latent.downsampling
        empty = {"samples": torch.zeros(1, self.config.latent.channels, side, side)}
        with torch.inference_mode():
            texts = [CLIPTextEncode().encode(self.clip, text)[0] for text in (prompt, "")]
            how = (seed, STEPS, cfg, "euler", "simple", *texts, empty)
            (drawn,) = common_ksampler(model, *how)
            return (self.vae.decode(drawn["samples"])[0] * 255).round().to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="a folder with one for each way of guiding")
    add("--model", default="stickers.safetensors")
    add("--prompts", default="evaluation", help="a list of lidit eval")
    add("--every", type=int, default=18, help="only every Nth prompt")
    add("--ways", nargs="+", default=WAYS, help="cfg=3,nag=5:0.5:1.5 for example")
    args = parser.parse_args()
    guided = Guided(load_host(), args.model)
    from lidit_core.io.pictures import save_picture
    from lidit_eval.items import items_of, tasks_of

    tasks = tasks_of(items_of(args.prompts), 0, 1, args.every)
    for way in args.ways:
        (folder := args.out / way).mkdir(parents=True, exist_ok=True)
        for task in tasks:
            if not (path := folder / task.name(1)).exists():
                save_picture(path, guided.picture(way, task.item.prompt, task.seed), {"way": way})
        print(f"{way}: {len(tasks)} pictures", flush=True)


if __name__ == "__main__":
    main()
