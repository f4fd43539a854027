"""All runs of an ablation, one after the other; what is there is not done again.

The same command in further processes shares the work: each takes the next run that no other has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lidit_core.errors import check
from lidit_core.io.hashes import sha256
from lidit_core.llm.locate import available
from lidit_core.pipeline import find_device
from lidit_core.shipped import find_base, find_model
from lidit_train.run import FINAL, train
from lidit_train.tasks.lidit.start import configuration

from .asked import LLMS, agree, hashes_of, read_llms
from .measuring import Measuring, RunMeasurements, is_measured, measure
from .recipes import CACHE, TRUNK, fork_fields, fork_recipe, run_folder, with_cache
from .table import CHANGES, write_tables
from .trunk import autoencoder, copy, kept, kept_autoencoder, latents_of
from .variants import Ablation, Variant

LOCK = "ablating.lock"  # held by the process that has a run, or the trunk
PROMPTS = "prompts"  # in the caches: states of what is drawn and of held-out captions
RESUMING = ("checkpoints", "weights")  # folders of a run that only going on needs

OnStep = Callable[[str, int, int], None]  # what is trained, step, steps


class Ablating:
    """Trains and measures every variant with every seed.

    Args:
        llms: where LLMs are that are not found under their names.
        on_step: is told of each step.
        changes: of the file's fields, as `--set` has them, for the table to say.
    """

    def __init__(
        self,
        ablation: Ablation,
        out: Path,
        llms: Mapping[str, str],
        device: str | None = None,
        on_step: OnStep = lambda what, step, steps: None,
        changes: Sequence[str] = (),
    ) -> None:
        self.asked = self.ablation = ablation
        self.out, self.llms = out, llms
        self.device, self.on_step, self.changes = device, on_step, list(changes)

    def run(self) -> str:
        """Do what is left to do; the table in Markdown.

        Seed after seed, so that a table is there once the first is through, and the pictures, on
        which no claim stands, after all else. What another process has in hand comes last: it is
        through by then, or was left.
        """
        self._check_llms()
        trunk = self._trunk()
        waiting: list[tuple[Variant, int]] = []
        for pictures in (False, True):
            for seed in self.ablation.seeds:
                for variant in self.ablation.variants:
                    try:
                        self._take(variant, seed, trunk, pictures, wait=False)
                    except Timeout:
                        waiting.append((variant, seed))
        for variant, seed in waiting:
            self._take(variant, seed, trunk)
        return self._told_so_far(trunk)

    def _take(
        self,
        variant: Variant,
        seed: int,
        trunk: Path | None,
        pictures: bool = True,
        wait: bool = True,
    ) -> None:
        """Do what is left of one run; whoever does the last of a seed writes the table.

        Of a run that is measured nothing but its figures is needed: they may come from elsewhere.
        """
        folder = run_folder(self.out, variant.name, seed)
        with self._alone(folder, wait):
            agree(folder, self._asked(variant, seed, trunk))
            told = is_measured(self.ablation, folder, pictures)
            if not told:
                self._finish(variant, seed, trunk, pictures)
            for name in RESUMING:
                shutil.rmtree(folder / name, ignore_errors=True)
        if not told and seed in self._through(pictures):
            self._told_so_far(trunk)

    def _through(self, pictures: bool) -> list[int]:
        """The seeds of which no run is left, whichever process had it."""
        unfinished = {seed for _, seed in left(self.ablation, self.out, pictures)}
        return [seed for seed in self.ablation.seeds if seed not in unfinished]

    def _told_so_far(self, trunk: Path | None) -> str:
        """Write the table of the seeds that are through."""
        runs = [(v, s) for s in self._through(pictures=False) for v in self.ablation.variants]
        found = {(v.name, seed): self._kept(v, seed, trunk) for v, seed in runs}
        read = {f"{v.name}-{s}": read_llms(run_folder(self.out, v.name, s)) for v, s in runs}
        about = {**self._hashes(trunk), CHANGES: self.changes, **mode_said(self.ablation)}
        return write_tables(self.ablation, found, about, read, self.out)

    def _alone(self, folder: Path, wait: bool = True) -> FileLock:
        """The lock that keeps other processes from a folder's run; it goes when its process dies.

        Raises:
            Timeout: on entering, another process has it, and this one is not to wait.
        """
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / LOCK, timeout=-1 if wait else 0)

    def _check_llms(self) -> None:
        """Refuse an ablation of which some variant's LLM is not on this machine, before any run."""
        for variant in self.ablation.variants:
            for name in self.ablation.llms(variant):
                source = self.llms.get(name, name)
                check(
                    available(source),
                    f"variant {variant.name} reads {source}, which is not on this machine; get it "
                    f"(docs/llmdiff.md says where MiniLM is found), say where it is with --llm "
                    f"{name}=FOLDER, or take the variant out of the file",
                )

    def _trunk(self) -> Path | None:
        """What every run starts from; None where that is nothing."""
        folder, adapter = (self.out / TRUNK).absolute(), self.ablation.adapter
        with self._alone(folder):
            if self.ablation.model:
                vae = str(kept_autoencoder(self.ablation, folder))
                self.ablation = replace(self.ablation, model={**self.ablation.model, "vae": vae})
                return None
            if self.ablation.trunk:
                return self._trained_trunk(folder)
            name = self.ablation.checkpoint
            path = find_base(adapter["base"]) if adapter else find_model(name)[0]
            path = kept(path, autoencoder(self.ablation, path), folder)
        if adapter:
            self.ablation = replace(self.ablation, adapter={**adapter, "base": str(path)})
        return path

    def _trained_trunk(self, folder: Path) -> Path:
        recipe = with_cache(self.ablation.trunk, self.out)
        names = [spec.name for spec in configuration(recipe.model, recipe.stages).llms]
        trained = (folder / FINAL).exists()  # then nothing reads its LLMs
        read = {} if trained else hashes_of(names, self.llms, find_device(self.device))
        agree(folder, {"recipe": self.ablation.trunk, LLMS: read})
        if not trained:
            train(recipe, folder, self.device, self.llms, self._told(TRUNK, recipe.steps))
        return folder / FINAL

    def _kept(self, variant: Variant, seed: int, trunk: Path | None) -> RunMeasurements:
        """A run that is through, but for pictures, which needs nobody's leave to be read."""
        folder = run_folder(self.out, variant.name, seed)
        agree(folder, self._asked(variant, seed, trunk))
        by = self._measuring(variant)
        return measure(self.ablation, folder / FINAL, folder, by, pictures=False)

    def _finish(self, variant: Variant, seed: int, trunk: Path | None, pictures: bool) -> None:
        folder = run_folder(self.out, variant.name, seed)
        model = folder / FINAL
        if not model.exists():
            base = str(trunk) if trunk else ""
            recipe = fork_recipe(self.ablation, variant, seed, base, self.out, self.llms)
            torch.compiler.reset()  # what was compiled for the runs before does not count
            told = self._told(f"{variant.name}, seed {seed}", recipe.steps)
            train(recipe, folder, self.device, self.llms, told)
        vae = None if self.ablation.adapter else autoencoder(self.ablation, trunk)
        if vae is not None:  # beside a checkpoint it is found by its latents' name
            copy(vae, folder, "" if trunk else f"{latents_of(self.ablation).name}-vae.safetensors")
        measure(self.ablation, model, folder, self._measuring(variant), pictures)

    def _measuring(self, variant: Variant) -> Measuring:
        names = self.ablation.llms(variant)
        sources = tuple(f"{name}={self.llms.get(name, name)}" for name in names)
        cache = self.out / CACHE / PROMPTS  # for all blocks of an LLM it would be too large
        return Measuring(sources, self.device, None if self.ablation.adapter else cache)

    def _asked(self, variant: Variant, seed: int, trunk: Path | None) -> dict[str, Any]:
        """What decides a run's figures; trunk, autoencoder and LLMs by what they hold."""
        fields = fork_fields(self.asked, variant, seed, "")
        gap, score = self.ablation.gap, self.ablation.score
        also = {"also": [[s.prompts, s.every] for s in self.ablation.also]}
        return {
            **(also if self.ablation.also else {}),
            **mode_said(self.ablation),
            "recipe": fields,
            **self._hashes(trunk),
            LLMS: hashes_of(self.ablation.llms(variant), self.llms, find_device(self.device)),
            "gap": [gap.scenes, list(gap.times)],
            "score": [score.prompts, score.every],
        }

    def _hashes(self, trunk: Path | None) -> dict[str, str]:
        vae = autoencoder(self.ablation, trunk)
        return {
            "trunk_sha256": sha256(trunk) if trunk is not None else "",
            "autoencoder_sha256": sha256(vae) if vae is not None else "",
        }

    def _told(self, what: str, steps: int) -> Callable[[int, float], None]:
        return lambda step, loss: self.on_step(what, step, steps)


def mode_said(ablation: Ablation) -> dict[str, str]:
    """The mode in which adapters are measured, where it is another than "replace".

    Runs of before say nothing of it.
    """
    said = ablation.adapter and ablation.mode != Ablation.mode
    return {"mode": ablation.mode} if said else {}


def left(ablation: Ablation, out: Path, pictures: bool = True) -> list[tuple[Variant, int]]:
    """The runs that are not yet trained and measured, with their pictures or without."""
    return [
        (variant, seed)
        for seed in ablation.seeds
        for variant in ablation.variants
        if not is_measured(ablation, run_folder(out, variant.name, seed), pictures)
    ]
