"""Every path, package and number of a run is tried before its first expensive act.

Nothing is written: a recipe that is refused leaves the run's folder as it was. What only the data
can tell is tried in lidit_train.data.prepare, also before an LLM or an autoencoder is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from lidit_core.errors import LiDiTError, check
from lidit_core.llm.locate import check_present, locate
from lidit_core.paths import at_home

from .loop.computing.eight_bits import check_device
from .loop.optimisers import check_optimiser
from .loop.parallel import check_several, share
from .loop.trackers import check_login, check_trackers
from .loop.voice import is_first
from .recipe import EIGHT_BITS, Recipe
from .tasks.task import Task


def check_run(
    recipe: Recipe, task: Task, out: Path, accelerator: Accelerator, llms: Mapping[str, str]
) -> None:
    """Try what a run needs.

    Args:
        llms: where LLMs are that are not found under their names.
    Raises:
        LiDiTError: something is missing or does not fit.
    """
    check_trackers(recipe.log.trackers)
    check_optimiser(recipe.optimiser.name)
    if recipe.compute.frozen in EIGHT_BITS:
        check_device(recipe.compute.frozen, accelerator.device)
    for stage in recipe.stages:
        share(stage.batch, accelerator.process_index, accelerator.num_processes)
    if recipe.compute.shard:
        check_several(accelerator)
    for folder in (out, at_home(recipe.cache.folder or out / "cache")):
        check_writable(folder)
    task.check_files()
    task.check_data()
    if is_first():
        check_login(recipe.log.trackers)
    names = task.read_llms()
    if recipe.cache.given:
        return check(
            Path(recipe.cache.given).is_dir(),
            f"the recipe's cache.given {recipe.cache.given} is not there; expected the folder of "
            "states that another run has kept",
        )
    for name in names:
        source = llms.get(name) or name
        check_present(source)
        locate(source)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made, or written to; it is not made here."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise LiDiTError(f"{place} is a file; expected a folder to write {folder} in, or none yet")
    if not os.access(place, os.W_OK | os.X_OK):
        raise LiDiTError(f"{place} cannot be written to; give a folder that can, with --out")
