"""A bridge in the demo checkpoint: as good as its own text encoder, then better by pictures.

    python -m lidit_stickers.bridging.checkpoint --out runs/bridged-checkpoint

The demo checkpoint's encoder, which knows words and no order, is recorded; SmolLM2 learns to write
what it writes, from the recording, then through the checkpoint's U-Net, then from captioned
pictures. What is drawn after each stage is compared with the checkpoint alone, and with the LLMDiff
adapter that ships. Every step is a command of `lidit`; the same command again goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lidit_core.bridge.file import load_bridge
from lidit_core.errors import check, exit_status
from lidit_eval.command import evaluate
from lidit_eval.report import Judged

from ..making.adapter_scores import ADAPTER, drawn_by
from .commands import recorded, trained
from .report import BridgeStage, write_stages
from .variants import STUDENT

MODEL, OWN_ADAPTER = "stickers-sd", ADAPTER.removesuffix(".safetensors")
SIZES = ("bridge.width=256", "bridge.token_budget=96")
ALL = ("compute.cpu_bf16=true", "compute.checkpointing=false", "log.trackers=[]")
THROUGH_BATCH, PICTURES_BATCH = 16, 64  # of the recipe through a U-Net, and as below
PICTURES = (  # as the adapter that ships was trained, with which it is compared
    f"stages.0.batch={PICTURES_BATCH}",
    "stages.0.shift=2",
    "optimiser.name=muon",
    "optimiser.learning_rate=3e-3",
    "optimiser.weight_decay=0",
    "optimiser.warmup=50",
    "optimiser.decay=0.4",
    "optimiser.ema=0.99",
    f"compute.micro_batch={PICTURES_BATCH}",
)
MODES = {"base": "the checkpoint", "add": "adapter, mode add", "replace": "adapter, mode replace"}


@dataclass(frozen=True)
class Repair:
    """The folder of a repair, and how much its bridge learns in each stage."""

    out: Path
    captions: int
    images: tuple[int, int, int]  # captions from the recording, through the U-Net, from pictures
    every: int = 1  # only every so many prompts are drawn
    model: str = MODEL
    adapter: str = OWN_ADAPTER
    student: str = STUDENT
    changes: tuple[str, ...] = SIZES  # of the first stage's recipe
    source: str = "{kind: stickers, path: en, count: 27000, distinct: 9000}"
    scored: str = "evaluation"  # a list of prompts

    def run(self) -> str:
        """Do what is left to do; the report in Markdown."""
        stages = self._stages()
        found = {says: self._adapted(mode) for mode, says in MODES.items()}
        for stage in stages:
            words = ("--bridge", str(stage.file), "--llm", self.student)
            found[stage.says] = self._drawn(stage.name, *words)
        drawn = f"; one prompt in {self.every} is drawn" * (self.every > 1)
        about = f"{drawn_by()}; {self.captions:,} captions recorded{drawn}"
        return write_stages(found, stages, about, self.out)

    def _stages(self) -> list[BridgeStage]:
        recording = recorded(self.out, self.captions, self.model)
        cache = f"cache.folder={(self.out / 'cache').absolute()}"
        source, base = f"data.sources.0.path={recording}", f"bridge.through.base={self.model}"
        first = (f"bridge.llms=[{self.student}]", source, *self.changes)
        told = "from the recording"
        known = self._stage("from-recording", told, 0, "bridge.yaml", (cache, *first))
        begun = (cache, base, f"bridge.llms=[{self.student}]", "stages.0.resolution=64")
        changes = (*begun, source, f"bridge.checkpoint={known.file.absolute()}")
        through = self._stage("through", "through its U-Net", 1, "bridge-through.yaml", changes)
        sources = f"data.sources=[{self.source}]"
        changes = (*begun, sources, f"bridge.checkpoint={through.file.absolute()}", *PICTURES)
        pairs = self._stage("pictures", "from pictures", 2, "bridge-pairs.yaml", changes)
        return [known, through, pairs]

    def _stage(
        self, name: str, says: str, number: int, recipe: str, changes: Sequence[str]
    ) -> BridgeStage:
        images, batch = self.images[number], (0, THROUGH_BATCH, PICTURES_BATCH)[number]
        sizes = [f"stages.0.images={images}"]
        if batch:  # measured in the middle and at the end
            sizes.append(f"validation.every={max(1, images // batch // 2)}")
        file = trained(recipe, self.out / name, (*sizes, *ALL, *changes))
        loaded = load_bridge(file)
        told = json.loads(loaded.report or "{}").get("bridge", {})
        figures = json.loads(loaded.stages)[-1] if loaded.stages else {}
        return BridgeStage(name, f"{says}, {images:,} captions", file, told, figures)

    def _adapted(self, mode: str) -> list[Judged]:
        return self._drawn(mode, "--adapter", self.adapter, "--mode", mode)

    def _drawn(self, name: str, *words: str) -> list[Judged]:
        shared = ("--prompts", self.scored, "--every", str(self.every))
        return evaluate(self.model, *words, *shared, "--out", str(self.out / "scores" / name))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of bridges, pictures and report")
    add("--captions", type=int, default=9_000, help="to record (9000)")
    told = "captions that each stage learns from (96000 4000 384000)"
    add("--images", type=int, nargs=3, default=(96_000, 4_000, 384_000), metavar="N", help=told)
    add("--every", type=int, default=1, metavar="N", help="only every Nth prompt is drawn (1)")
    options = parser.parse_args(arguments)
    least = min(options.images)
    check(least >= 128, f"--images has {least}; expected 128 or more of each stage")
    for name, low in {"captions": 100, "every": 1}.items():
        value = getattr(options, name)
        check(value >= low, f"--{name} is {value}; expected {low} or more")
    images = tuple(options.images)
    print(Repair(options.out, options.captions, images, options.every).run(), end="")


if __name__ == "__main__":
    sys.exit(exit_status("bridging.checkpoint", main))
