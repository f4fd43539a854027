"""How fast batches are read, against how fast they are learnt from: `python -m benchmarks.loader`.

The sticker recipe on a part of its scenes, alternately: the loader alone, and the trainer's steps.
Caches are filled first, in the folder that is given, which needs SmolLM2, Gemma 3 and some minutes
the first time.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

from lidit_core.errors import exit_status
from lidit_train.data.fetching import Fetcher
from lidit_train.data.loader import Loader
from lidit_train.loop.parallel import accelerator_for, share_of
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "stickers.yaml"
PART = ("data.sources.0.count=900", "data.sources.0.distinct=300", "data.sources.1.count=100")
PART += ("data.sources.1.distinct=50", "validation.every=0", "log.trackers=[]")
PART += ("model.checkpoint=stickers",)  # the recipe's own has to be fetched from history first
ROUNDS, BATCHES, STEPS = 3, 30, 6


def measure(cache: Path, *changes: str) -> dict[str, float]:
    """Images a second of the loader alone and of the trainer, the best of some rounds each."""
    recipe = read_recipe(RECIPE, [*PART, f"cache.folder={cache}", *changes])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        accelerator = accelerator_for(recipe.compute, "cpu")
        run = begin_run(recipe, out, accelerator)
        trainer = run.trainer
        fetcher = Fetcher(recipe, run.ready, share_of(accelerator))
        reading = iter(Loader(fetcher, run.ready))
        batches = [batch for _, batch in itertools.islice(reading, STEPS)]
        losses = trainer.no_losses()
        best = {"loader": 0.0, "trainer": 0.0}
        for _ in range(ROUNDS):
            began = time.perf_counter()
            read = sum(len(batch) for _, batch in itertools.islice(reading, BATCHES))
            best["loader"] = max(best["loader"], read / (time.perf_counter() - began))
            began = time.perf_counter()
            for batch in batches:
                trainer.train_step(batch, losses)
            learnt = sum(map(len, batches))
            best["trainer"] = max(best["trainer"], learnt / (time.perf_counter() - began))
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("runs/loader-cache"))
    cache = parser.parse_args().cache
    held = True
    for name, changes in {"latents": (), "pictures": ("cache.latents=false",)}.items():
        best = measure(cache, *changes)
        ratio = best["loader"] / best["trainer"]
        held &= ratio >= 3 or name == "pictures"
        print(
            f"{name}: the loader alone reads {best['loader']:.0f} images/s, training takes "
            f"{best['trainer']:.1f}: {ratio:.1f} times (limit 3 with cached states and latents)"
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(exit_status("benchmarks.loader", main))
