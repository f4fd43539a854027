"""A LI-DiT's branch that reads Gemma, written by SmolLM2: bridges compared by what is drawn.

    python -m lidit_stickers.bridging.branch --out runs/bridged-branch

Captions of the stickers are recorded with Gemma, each bridge learns them from SmolLM2 without a
picture, and stickers-duo draws with Gemma alone and with each bridge in its place: the fixed
prompts, and others in words that no caption has. Every step is a command of `lidit`; the same
command again goes on.
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
from lidit_core.io.hashes import sha256
from lidit_core.shipped import find_model
from lidit_eval.command import evaluate
from lidit_eval.report import Judged
from lidit_train.run import FINAL
from lidit_train.tasks.bridge.saving import RIDGE

from ..llm_copies import RANDOM, write_lesser
from .commands import recorded, trained
from .report import Compared, write_report
from .variants import RIDGE_ALONE, STUDENT, TEACHER, VARIANTS, WHOLE, BridgeVariant

LISTS = ("evaluation", "paraphrases")
RECIPE = "bridge.yaml"
CHANGES = (  # of the recipe, which is for more varied prompts
    "bridge.width=256",
    "bridge.token_budget=96",
    "optimiser.learning_rate=1e-3",
    "optimiser.warmup=50",
    "compute.cpu_bf16=true",
    "log.trackers=[]",
)


@dataclass(frozen=True)
class Comparison:
    """The folder, the size and the models of a comparison."""

    out: Path
    captions: int  # to record
    images: int  # captions that each bridge learns from, each several times
    every: int = 1  # only every so many prompts are drawn
    model: str = "stickers-duo"
    teacher: str = TEACHER
    student: str = STUDENT
    lists: tuple[str, ...] = LISTS
    changes: tuple[str, ...] = CHANGES

    def file(self, variant: BridgeVariant) -> Path:
        """The file of a variant's bridge."""
        if variant is RIDGE_ALONE:
            return self.out / WHOLE.name / RIDGE
        return self.out / variant.name / FINAL

    def run(self) -> str:
        """Do what is left to do; the report in Markdown."""
        recording = recorded(self.out, self.captions, self.model, self.teacher)
        for variant in VARIANTS:
            self._make(variant, recording)
        native = {name: self._drawn(name, "native", self.teacher) for name in self.lists}
        found = [self._compared(variant) for variant in VARIANTS]
        return write_report(native, found, self._about(), self.out)

    def _make(self, variant: BridgeVariant, recording: Path) -> None:
        file, llm = self.file(variant).absolute(), self.student
        if file.exists():
            return
        if variant.random:
            llm = str(file.parent / RANDOM)
            write_lesser(RANDOM, self.student, Path(llm))
        changes = (
            f"bridge.llms=[{llm}]",
            f"data.sources.0.path={recording}",
            f"stages.0.images={self.images}",
            f"cache.folder={(self.out / 'cache').absolute()}",
            *self.changes,
            *variant.changes,
        )
        trained(RECIPE, file.parent, changes)

    def _compared(self, variant: BridgeVariant) -> Compared:
        file = self.file(variant)
        told = json.loads(load_bridge(file).report or "{}").get("bridge", {})
        drawn = {name: self._drawn(name, variant.name, str(file)) for name in self.lists}
        return Compared(variant, told, drawn)

    def _drawn(self, prompts: str, name: str, llm: str) -> list[Judged]:
        words = (self.model, "--llm", llm, "--prompts", prompts, "--every", str(self.every))
        return evaluate(*words, "--out", str(self.out / "scores" / prompts / name))

    def _about(self) -> str:
        """What the report says of how it was made."""
        drawn = f"; one prompt in {self.every} is drawn" * (self.every > 1)
        return (
            f"Weights {sha256(find_model(self.model)[0])[:12]}; {self.captions:,} captions of "
            f"which each bridge learnt {self.images:,}, and no picture{drawn}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of bridges, pictures and report")
    add("--captions", type=int, default=18_000, help="to record (18000)")
    add("--images", type=int, default=48_000, help="captions that each bridge learns (48000)")
    add("--every", type=int, default=1, metavar="N", help="only every Nth prompt is drawn (1)")
    options = parser.parse_args(arguments)
    for name, least in {"captions": 100, "images": 64, "every": 1}.items():
        value = getattr(options, name)
        check(value >= least, f"--{name} is {value}; expected {least} or more")
    comparison = Comparison(options.out, options.captions, options.images, options.every)
    print(comparison.run(), end="")


if __name__ == "__main__":
    sys.exit(exit_status("bridging.branch", main))
