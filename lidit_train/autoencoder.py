"""Train the tiny autoencoder: its decoder, behind a linear encoder, on drawn pictures."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lidit_core.vae import CHANNELS, DOWNSAMPLING, TinyAutoencoder

from .linear_encoder import BYPASSED, set_linear_encoder
from .optimisation import EMA, rate_factor
from .state import load_state, save_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How an autoencoder was, or is to be, trained."""

    light: tuple[str, ...] = ()  # blocks of the decoder bypassed (see lidit_core.vae)
    batch: int = 8  # pictures a step
    steps: int = 2000
    learning_rate: float = 1.5e-3  # AdamW, betas 0.9 and 0.99
    warmup: int = 50  # steps
    decay: float = 0.4  # share of the steps over which the rate falls to zero
    ema: float = 0.995
    edges: float = 1.0  # weight of the L1 of horizontal and vertical differences
    noise: float = 0.05  # deviation of the noise on latents: decoders must bear a model's errors
    save_every: int = 50  # steps
    seed: int = 0


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.diff(dim=2), x.diff(dim=3)


def autoencoder_loss(
    model: TinyAutoencoder, pictures: Tensor, noise: Tensor, r: AutoencoderRecipe
) -> tuple[Tensor, Tensor]:
    """The whole loss, and the plain L1 of the reconstruction alone."""
    with torch.no_grad():
        latents = model.encode(pictures)
    rebuilt = model.taesd_decoder(latents + r.noise * noise)
    l1 = F.l1_loss(rebuilt, pictures)
    edges = sum(F.l1_loss(a, b) for a, b in zip(_edges(rebuilt), _edges(pictures)))
    return l1 + F.mse_loss(rebuilt, pictures) + r.edges * edges, l1.detach()


def untrained_autoencoder(
    recipe: AutoencoderRecipe, linear: tuple[Tensor, Tensor]
) -> TinyAutoencoder:
    """The encoder is final from the start, so latents can be computed before any training."""
    model = TinyAutoencoder((*BYPASSED, *recipe.light)).initialise()
    set_linear_encoder(model, *linear)
    return model


class AutoencoderTrainer:
    """A run in a folder, resumed from its ``state.pt``.

    Args:
        linear: the encoder (see lidit_train.linear_encoder).
        draw: (batch, step) -> pictures (batch, 3, H, W) in [0, 1], a function of the step alone.
    """

    def __init__(
        self,
        recipe: AutoencoderRecipe,
        linear: tuple[Tensor, Tensor],
        draw: Callable[[int, int], Tensor],
        folder: Path,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.draw, self.folder, self.device = recipe, draw, folder, device
        model = untrained_autoencoder(recipe, linear)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.ema = EMA(self.model, recipe.ema)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.step = 0
        self._resume()

    def train(self) -> TinyAutoencoder:
        """Go on to the recipe's last step; returns the model with the averaged weights."""
        while self.step < self.recipe.steps:
            l1 = self._train_step()
            if self.step % self.recipe.save_every == 0 or self.step == self.recipe.steps:
                log.info("step %d of %d: L1 %.4f", self.step, self.recipe.steps, l1)
                self._save()
        self.model.load_state_dict(self.ema.over(self.model.state_dict()))
        return self.model.eval().cpu()

    def _train_step(self) -> float:
        r = self.recipe
        pictures = self.draw(r.batch, self.step).to(self.device, memory_format=torch.channels_last)
        noise = self._noise(pictures).to(self.device)
        rate = r.learning_rate * rate_factor(self.step, r.warmup, r.steps, r.decay)
        self.optimiser.param_groups[0]["lr"] = rate
        loss, l1 = autoencoder_loss(self.model, pictures, noise, r)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.ema.update(self.model)
        self.step += 1
        return l1.item()

    def _noise(self, pictures: Tensor) -> Tensor:
        """For the latents of these pictures, decided by the step alone."""
        b, _, *sides = pictures.shape
        shape = (b, CHANNELS, *(side // DOWNSAMPLING for side in sides))
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.step))

    def _save(self) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "ema", "optimiser")}
        made = {"step": self.step, "recipe": repr(self.recipe)}
        save_atomically({**made, **parts}, self.folder / "state.pt")

    def _resume(self) -> None:
        state = load_state(self.folder / "state.pt")
        if state is None:
            return
        self.step = state["step"]
        for name in ("model", "ema", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.ema.weights = {k: v.to(self.device) for k, v in self.ema.weights.items()}
        log.info("resuming at step %d of %d", self.step, self.recipe.steps)
