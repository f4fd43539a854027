"""How fast the stickers are trained, now and at another commit: `python -m benchmarks.throughput`.

Both trees train the same LI-DiT by the stickers' recipe on the same drawn scenes, from caches that
each fills first, in two processes of one thread started by `torch.distributed.run`. What the recipe
says of how a step is computed is today's alone, for the older trainer knows no such thing; with
--plain today's tree leaves it out too, and both compute in float32. They take turns, and the one
that begins changes with every round. Speeds are those of the log's lines, which leave out what is
saved, without the first steps. The loss of what patches show is left out: only scenes that are
drawn as training goes have it, and their captions are not those of that time.

A folder of some hundred MB is made for it where LIDIT_SCRATCH says, or among temporary files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lidit_core.errors import LiDiTError, exit_status
from lidit_core.llm.hub import model_folder
from lidit_core.llm.locate import check_present, locate
from lidit_core.model.presets import find_preset
from lidit_stickers.source import StickerSource
from lidit_train.recipe import Source

from .older_tree import ROOT, take_out

RECIPE = ROOT / "recipes" / "stickers.yaml"
VAE = ROOT / "lidit_core" / "weights" / "stickers-vae.safetensors"
COMMIT = "74bf4f6"
WANTED = 1.15  # times as fast as that
SCENES = {"en": 1024, "zh": 128}  # as the recipe's first two sources share their pictures out
SIDE, BATCH, PROCESSES = 128, 64, 2
LINE = 5  # steps between two lines of the log
WARM = 2 * LINE  # steps that are not timed
SIMILAR = 1e-3  # of the loss: what rounding may change in some dozens of steps


@dataclass(frozen=True)
class Tree:
    """A checkout, and where its runs and caches are."""

    name: str
    root: Path
    folder: Path


@dataclass(frozen=True)
class Timed:
    """What one run tells."""

    speed: float  # images a second
    loss: float  # of the steps before the log's last line


def draw_scenes(folder: Path, scenes: dict[str, int]) -> None:
    """Pictures and captions in a folder for each language."""
    for language, count in scenes.items():
        source = StickerSource(Source("stickers", language, count=count, distinct=count))
        (folder / language).mkdir(parents=True)
        for n in range(count):
            place = folder / language / f"{n:05}.png"
            source.picture(n, (SIDE, SIDE)).save(place)
            place.with_suffix(".txt").write_text(source.captions(n)[0][0], encoding="utf-8")


def write_recipe(
    path: Path, pictures: Path, steps: int, batch: int, computed: bool = False
) -> Path:
    """The sticker recipe as both trees read it: what is timed and nothing else.

    Args:
        computed: with how a step is computed, which today's tree alone reads.
    """
    whole = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    rate = float(whole["optimiser"]["learning_rate"])  # YAML 1.1 takes 2e-3 for text
    stage = {"images": steps * batch, "batch": batch, "shift": 5}
    data = {
        "model": {"preset": "stickers", "vae": str(VAE), "measure_latents": True},
        "data": {
            "sources": [
                {"kind": "folder", "path": str(pictures / "en")},
                {"kind": "folder", "path": str(pictures / "zh"), "branches": [1]},
            ],
            "caption_dropout": whole["data"]["caption_dropout"],
            "text_zeroing": whole["data"]["text_zeroing"],
        },
        "stages": [{**stage, "subsets": whole["stages"][0]["subsets"]}],
        "optimiser": {**whole["optimiser"], "learning_rate": rate},
        "checkpoints": {"every": steps},
        "validation": {"every": 0},
        "log": {"every": LINE, "trackers": []},
    }
    data |= {"compute": whole["compute"]} if computed else {}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def train(tree: Tree, recipe: Path, out: str) -> list[dict]:
    """Run a recipe in a tree by PyTorch's launcher; the lines of its log."""
    llms = [llm.name for llm in find_preset("stickers").llms]
    given = [f"--llm={name}={model_folder(locate(name))}" for name in llms]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(PROCESSES), "--standalone"]
    words = ["train", str(recipe), "--out", str(tree.folder / out), "--device", "cpu"]
    words += ["--set", f"cache.folder={tree.folder / 'cache'}", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree.root)}
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "lidit_core", *words],
        cwd=tree.root,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LiDiTError(f"the training of {tree.name} failed; it said: {done.stderr[-2000:]}")
    log = (tree.folder / out / "log.jsonl").read_text(encoding="utf-8")
    shutil.rmtree(tree.folder / out)
    return [json.loads(line) for line in log.splitlines()]


def timed(lines: Sequence[dict], batch: int) -> Timed:
    """Compute the speed between the last line of the warm-up and the last, whose loss is told."""
    steps = [line["step"] for line in lines]
    images = [batch * (step - before) for before, step in zip([0, *steps], steps)]
    kept = [(n, line["images/s"]) for n, line in zip(images, lines) if line["step"] > WARM]
    seconds = sum(n / speed for n, speed in kept)
    return Timed(sum(n for n, _ in kept) / seconds, lines[-1]["loss"])


def compare(
    commit: str, scratch: Path, rounds: int, steps: int, batch: int, computed: bool = True
) -> int:
    """Rounds of both trees; 0 where today's is as much faster as is promised."""
    scenes = {language: max(n * batch // BATCH, 8) for language, n in SCENES.items()}
    draw_scenes(scratch / "pictures", scenes)
    before = Tree(commit, take_out(commit, scratch / "tree"), scratch / "before")
    today = Tree("today's", ROOT, scratch / "today")
    recipes = {}
    for tree, read in ((before, False), (today, computed)):
        tree.folder.mkdir()
        asked = (scratch / "pictures", steps, batch, read)
        recipes[tree.name] = write_recipe(tree.folder / "recipe.yaml", *asked)
        short = write_recipe(tree.folder / "short.yaml", scratch / "pictures", 1, batch)
        train(tree, short, "filling")
    found: dict[str, list[Timed]] = {before.name: [], today.name: []}
    for number in range(rounds):
        for tree in (before, today)[:: -1 if number % 2 == 0 else 1]:
            one = timed(train(tree, recipes[tree.name], f"round-{number}"), batch)
            found[tree.name].append(one)
            told = f"{one.speed:.2f} images/s, loss {one.loss:.6f} at step {steps}"
            print(f"round {number + 1}, {tree.name}: {told}", flush=True)
    return verdict(found[before.name], found[today.name])


def verdict(before: Sequence[Timed], today: Sequence[Timed]) -> int:
    """Say what the rounds found together."""
    ratios = [b.speed / a.speed for a, b in zip(before, today)]
    middle, apart = statistics.median(ratios), abs(today[0].loss / before[0].loss - 1)
    same = apart <= SIMILAR
    rest = f"{min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} rounds"
    print(f"today's tree is {middle:.3f} times as fast ({rest}; limit {WANTED})")
    told = "by rounding" if same else f"by MORE THAN ROUNDING (limit {SIMILAR})"
    print(f"the losses differ by {apart:.1e} of themselves, {told}")
    return 0 if middle >= WANTED and same else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default=COMMIT, help=f"to compare with ({COMMIT})")
    parser.add_argument("--rounds", type=int, default=5, help="of both trees (5)")
    parser.add_argument(
        "--steps", type=int, default=60, help=f"of a run, {WARM} of them untimed (60)"
    )
    parser.add_argument("--batch", type=int, default=BATCH, help=f"pictures ({BATCH})")
    parser.add_argument(
        "--plain", action="store_true", help="both compute in float32, whatever the recipe says"
    )
    asked = parser.parse_args()
    if asked.steps < WARM + LINE or asked.steps % LINE or asked.rounds < 1:
        raise LiDiTError(
            f"--steps {asked.steps} and --rounds {asked.rounds} were given; expected a multiple of "
            f"{LINE} from {WARM + LINE} on, and a round or more"
        )
    for llm in find_preset("stickers").llms:
        check_present(llm.name)
    with tempfile.TemporaryDirectory(dir=os.environ.get("LIDIT_SCRATCH")) as scratch:
        sizes = asked.rounds, asked.steps, asked.batch
        return compare(asked.commit, Path(scratch), *sizes, computed=not asked.plain)


if __name__ == "__main__":
    sys.exit(exit_status("benchmarks.throughput", main))
