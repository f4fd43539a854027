"""A whole run: what it reads, its model, the loop, and at the end the file that the nodes load."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.io.atomic import replacing
from lidit_core.llmdiff.file import write_adapter

from .data.latent_statistics import with_preview
from .data.loader import Fetcher, Loader
from .data.prepare import Prepared, prepare, some_captions, some_latents
from .loop.longest_prompt import recorded, trained_branches
from .loop.parallel import accelerator_for, share_of, tell_processes
from .loop.trainer import Trainer
from .loop.validation import Grid, save_grid
from .recipe import Recipe
from .tasks.adapter.learner import AdapterLearner
from .tasks.adapter.start import ADAPTER_SAMPLE, begin_adapter
from .tasks.lidit.learner import Learner
from .tasks.lidit.lora import add_lora, save_lora
from .tasks.lidit.start import begin
from .tasks.lidit.trained import trained_by
from .tasks.whitening import whiten_entries

log = logging.getLogger(__name__)

RECIPE, FINAL = "recipe.json", "final.safetensors"  # in the run's folder


def train(
    recipe: Recipe,
    out: Path,
    device: str | None = None,
    llms: Mapping[str, str] | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Path:
    """Run a recipe in a folder, from its newest checkpoint where it has one.

    Args:
        device: "cpu" keeps a run off the GPU that there is.
        llms: where LLMs are that are not found under their names.
        on_step: told each step's number and loss.
    Returns:
        ``out/final.safetensors``: a LI-DiT, or the LoRA where that is what was trained.
    """
    accelerator = accelerator_for(recipe.compute, device)
    tell_processes(accelerator)
    if accelerator.is_main_process:
        _note_recipe(recipe, out)
    accelerator.wait_for_everyone()
    ready = prepare(recipe, out, accelerator, llms or {})
    trainer = build_trainer(recipe, ready, out, accelerator)
    trainer.train(on_step)
    weights = trainer.averaged()  # of all processes
    if accelerator.is_main_process:
        _save(recipe, ready, trainer, weights, out / FINAL)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return out / FINAL


def build_trainer(recipe: Recipe, ready: Prepared, out: Path, accelerator: Accelerator) -> Trainer:
    """The model on its device with what is not trained frozen, and the loop around it."""
    made = _adapter_learner if recipe.trains == "adapter" else _lidit_learner
    learner = made(recipe, ready).to(accelerator.device)
    fetcher = Fetcher(recipe, ready, share_of(accelerator))
    loader = Loader(fetcher, ready, accelerator.device)
    grid = None
    if recipe.validation.every and recipe.validation.prompts:
        chosen = recipe.validation.branches or ready.readers
        grid = Grid(recipe.validation, {i: ready.readers[i] for i in chosen}, ready.config)

    def draw(step: int) -> Tensor:
        pixels = grid.draw(learner, ready.vae.model, accelerator.device)
        if accelerator.is_main_process:
            save_grid(pixels, out / "grids" / f"{step:07d}.png")
        return pixels

    return Trainer(recipe, learner, loader, accelerator, out, draw if grid else None)


def _lidit_learner(recipe: Recipe, ready: Prepared) -> Learner:
    start = begin(recipe, ready.config)
    for note in start.notes:
        log.info(note)
    if recipe.model.whiten:
        texts = some_captions(ready)
        fresh = {i: ready.readers[i].read(texts) for i in start.fresh if i in ready.readers}
        whiten_entries(start.model, fresh)
    trained = trained_by(recipe, ready.config, start.fresh)
    for name, parameter in start.model.named_parameters():
        parameter.requires_grad_(trained.weight(name))
    learner = Learner(start.model, recipe.content, recipe.compute.checkpointing, recipe.contrast)
    if recipe.trains == "lora":
        learner.lora = add_lora(start.model, recipe.lora)
    return learner


def _adapter_learner(recipe: Recipe, ready: Prepared) -> AdapterLearner:
    states = None
    if recipe.model.whiten:
        states = ready.readers[0].read(some_captions(ready, ADAPTER_SAMPLE))
    return begin_adapter(recipe, ready.config, states)


def _save(
    recipe: Recipe, ready: Prepared, trainer: Trainer, weights: dict[str, Tensor], path: Path
) -> None:
    """The averaged weights in bfloat16, with what a host needs for previews; or the LoRA."""
    base = recipe.model.checkpoint or recipe.model.preset
    halved = {k: v.to("cpu", torch.bfloat16) for k, v in weights.items()}
    if recipe.trains == "adapter":
        own = "adapter."
        state = {k.removeprefix(own): v for k, v in halved.items() if k.startswith(own)}
        (llm,) = recorded(ready.config.llms, trainer.longest.tokens)
        return write_adapter(path, state, replace(ready.config.adapter, llm=llm))
    if recipe.trains == "lora":
        state = {k.removeprefix("lora."): v for k, v in halved.items() if k.startswith("lora.")}
        longest = trainer.longest.tokens
        return save_lora(trainer.learner.lora, ready.config, path, base, state, longest)
    learnt = trained_branches(trainer.learner.model)
    llms = recorded(ready.config.llms, trainer.longest.tokens, learnt)
    config = replace(ready.config, llms=llms)
    if not config.latent.rgb_factors:
        some = some_latents(ready.sources, ready.stages[-1], ready.vae, ready.latents)
        config = with_preview(config, ready.vae.model, some)
    model = {k.removeprefix("model."): v for k, v in halved.items() if k.startswith("model.")}
    save_lidit(model, config, path)


def _note_recipe(recipe: Recipe, out: Path) -> None:
    """Keep the recipe with the run, and say what differs from the one before."""
    path = out / RECIPE
    if path.is_file():
        changed = _differences(json.loads(path.read_text()), json.loads(recipe.to_json()))
        if changed:
            log.warning("the recipe has changed since the run began: %s", "; ".join(changed))
    with replacing(path) as beside:
        beside.write_text(recipe.to_json())


def _differences(old, new, name: str = "") -> list[str]:
    """``stages.0.images was 10, is 20`` for everything that is not the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        pairs = [(old.get(k), new.get(k), f"{name}.{k}".lstrip(".")) for k in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(a, b, f"{name}.{i}") for i, (a, b) in enumerate(zip(old, new))]
    else:
        return [] if old == new else [f"{name} was {old!r}, is {new!r}"]
    return [told for pair in pairs for told in _differences(*pair)]
