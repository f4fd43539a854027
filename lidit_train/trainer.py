"""Train a LI-DiT: a pure function of (recipe, step) for every batch, so that a run resumes."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from lidit_core.config import LiDiTConfig
from lidit_core.dit import LiDiT
from lidit_core.errors import LiDiTError, first_line
from lidit_core.latents import normalise
from lidit_core.objectives import sample_time
from lidit_core.states import PADDING, LLMStates

from .data import CaptionStates, LatentSet
from .learner import Batch, Learner
from .muon import Muon
from .parallel import any_process, join, share, together
from .recipe import Recipe
from .state import EMA, learning_rate, load_state, save_atomically
from .whitening import whiten_entries

log = logging.getLogger(__name__)

MOST_BAD_STEPS = 20  # losses in a row that are no number before the run gives up


class Batches:
    """The batch of every step, drawn from a generator that only the seed and the step decide."""

    def __init__(
        self, recipe: Recipe, config: LiDiTConfig, captions: CaptionStates, folder: Path
    ) -> None:
        self.recipe, self.config, self.captions = recipe, config, captions
        self.sets = {s.latents: LatentSet.load(folder / s.latents) for s in recipe.stages}
        self.pools = {
            (stage.latents, subset.branches): self._pool(stage.latents, subset.branches)
            for stage in recipe.stages
            for subset in stage.subsets
        }

    def _pool(self, latents: str, branches: tuple[int, ...]) -> Tensor:
        """Pictures whose caption these branches can read."""
        return self.captions.usable(branches)[self.sets[latents].captions].nonzero()[:, 0]

    def __getitem__(self, step: int) -> Batch:
        g = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        stage = self.recipe.stage_of(step)
        weights = torch.tensor([subset.weight for subset in stage.subsets])
        branches = stage.subsets[int(torch.multinomial(weights, 1, generator=g))].branches
        pool = self.pools[stage.latents, branches]
        rows = pool[torch.randint(len(pool), (stage.batch,), generator=g)]
        data = self.sets[stage.latents]
        x = normalise(data.latents[rows], self.config.latent)
        shift = self.config.shift if stage.shift is None else stage.shift
        times = sample_time(self.config.prediction, stage.batch, shift, g)
        text = self._text(data.captions[rows], branches, g)
        noise = torch.randn(x.shape, generator=g)
        return Batch(x, noise, times, text, self._content(data, rows))

    def _content(self, data: LatentSet, rows: Tensor) -> Tensor | None:
        if self.recipe.content is None:
            return None
        if data.content is None:
            raise LiDiTError(
                "the recipe teaches content, but its latents do not say what each patch shows; "
                "prepare them with their content, or leave it out of the recipe"
            )
        return data.content[rows].long()

    def _text(self, captions: Tensor, branches: tuple[int, ...], g: torch.Generator):
        drawn = torch.rand(len(captions), generator=g)
        dropped = drawn < self.recipe.caption_dropout
        zeroed = drawn > 1 - self.recipe.text_zeroing
        text = self.captions.rows(captions.where(~dropped, self.captions.empty), branches)
        return {
            i: LLMStates(states.hidden, states.roles.masked_fill(zeroed[:, None], PADDING))
            for i, states in text.items()
        }


def optimisers_of(learner: Learner, recipe: Recipe) -> dict[str, torch.optim.Optimizer]:
    """AdamW, where only matrices decay; Muon for the blocks' matrices where asked for.

    The blocks are the transformer's and the linguistic refiners'; the collaborative refiner's
    matrices stay with AdamW.
    """
    inner = []
    if recipe.optimiser == "muon":
        inner = [p for name, p in learner.named_parameters() if p.ndim > 1 and "blocks." in name]
    chosen = {id(p) for p in inner}
    rest = [p for p in learner.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    if not inner:
        return {"adamw": adamw}
    muon = Muon(inner, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return {"adamw": adamw, "muon": muon}


class Trainer:
    """A run in a folder: ``state.pt`` to resume from, ``log.jsonl``, and grids."""

    def __init__(
        self,
        recipe: Recipe,
        config: LiDiTConfig,
        captions: CaptionStates,
        data: Path,
        run: Path,
        draw_grid: Callable[[LiDiT, Path], None] = lambda model, path: None,
        device: str = "cpu",
    ) -> None:
        self.rank, self.world = join(device)  # before anything goes to a GPU: it says which
        torch.manual_seed(recipe.seed)
        self.recipe, self.run, self.device, self.draw_grid = recipe, run, device, draw_grid
        self.batches = Batches(recipe, config, captions, data)
        self.model = LiDiT(config).initialise()
        whiten_entries(self.model, captions.branches)
        self.model.to(device)
        self.learner = Learner(self.model, recipe.content).to(device)
        self.ema = EMA(self.model, recipe.ema)
        self.optimisers = optimisers_of(self.learner, recipe)
        self.step, self.bad = 0, 0
        self._resume()
        self.parallel = together(self.learner, self.world)

    def train(self, until: float = float("inf")) -> None:
        """Go on to the recipe's last step, or until ``until`` seconds have passed; then save."""
        began, last = time.monotonic(), time.monotonic()
        losses: list[float] = []
        while self.step < self.recipe.steps:
            if any_process(time.monotonic() - began >= until, self.world):
                break
            losses.append(self._train_step())
            if self.rank > 0:
                continue
            if self.step % self.recipe.save_every == 0:
                self._report(losses, time.monotonic() - last)
                self.save()
                losses, last = [], time.monotonic()
            if self.step % self.recipe.grid_every == 0:
                self.draw_grid(self.averaged(), self.run / "grids" / f"{self.step:06d}.png")
        if self.rank == 0:
            self.save()

    def averaged(self) -> LiDiT:
        """A copy of the model with the EMA's weights, for drawing."""
        model = LiDiT(self.model.config).to(self.device)
        model.load_state_dict(self.ema.weights)
        return model.eval()

    def save(self) -> None:
        made = {"config": self.model.config.to_json(), "recipe": repr(self.recipe)}
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        save_atomically({"step": self.step, **made, **parts}, self.run / "state.pt")

    def _parts(self) -> dict:
        """What a saved state holds besides numbers."""
        return {"learner": self.learner, "ema": self.ema, **self.optimisers}

    def _resume(self) -> None:
        state = load_state(self.run / "state.pt")
        if state is None:
            return
        self._check(state)
        self.step = state["step"]
        for name, part in self._parts().items():
            self._load(name, part, state)
        self.ema.weights = {k: v.to(self.device) for k, v in self.ema.weights.items()}
        log.info("resuming at step %d of %d", self.step, self.recipe.steps)

    def _load(self, name: str, part, state: dict) -> None:
        try:
            part.load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError) as error:
            raise LiDiTError(
                f"the {name} that {self.run} holds does not fit the recipe ({first_line(error)}); "
                "take the optimiser and the content that the run was begun with, or another folder"
            ) from error

    def _check(self, state: dict) -> None:
        """Another model is refused; a recipe may be lengthened, and it is logged."""
        config = self.model.config.to_json()
        if state.get("config", config) != config:
            raise LiDiTError(
                f"{self.run} holds a run of another model than the recipe's {self.recipe.preset}; "
                "name another folder, or take the recipe that the run was begun with"
            )
        if state.get("recipe", repr(self.recipe)) != repr(self.recipe):
            log.warning(
                "the recipe has changed since %s was saved; it was %s", self.run, state["recipe"]
            )

    def _train_step(self) -> float:
        r = self.recipe
        rate = learning_rate(self.step, r.learning_rate, r.warmup, r.steps, r.decay)
        with self._autocast():
            loss = self.parallel(self._batch())
        self.learner.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.learner.parameters(), r.clip)
        if self._is_good(norm.item()):
            self._update(rate)
        self.step += 1
        return loss.item()

    def _update(self, rate: float) -> None:
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        self.ema.update(self.model)

    def _autocast(self):
        """bfloat16 mixed precision (paper) on a GPU; float32 on a CPU."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu")

    def _is_good(self, norm: float) -> bool:
        """Whether the gradient is a number; it is the same in every process."""
        self.bad = 0 if math.isfinite(norm) else self.bad + 1
        if self.bad >= MOST_BAD_STEPS:
            raise LiDiTError(
                f"the gradient was no number for {self.bad} steps up to step {self.step}; "
                "lower learning_rate in the recipe and resume from the last saved state"
            )
        return self.bad == 0

    def _batch(self) -> Batch:
        """This process's share of the step's batch, on its device."""
        batch = self.batches[self.step]
        rows = share(len(batch.x), self.rank, self.world)
        x, noise, time_ = (v[rows].to(self.device) for v in (batch.x, batch.noise, batch.time))
        text = {i: s[rows].to(self.device) for i, s in batch.text.items()}
        content = None if batch.content is None else batch.content[rows].to(self.device)
        return Batch(x, noise, time_, text, content)

    def _report(self, losses: list[float], seconds: float) -> None:
        rate = len(losses) * self.recipe.stage_of(self.step - 1).batch / seconds
        line = {"step": self.step, "loss": sum(losses) / len(losses), "images_per_s": rate}
        line |= {"time": time.time()}
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        log.info(
            "step %d of %d: loss %.4f, %.1f images/s",
            self.step, self.recipe.steps, line["loss"], rate,
        )  # fmt: skip
