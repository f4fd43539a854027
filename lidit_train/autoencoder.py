"""Train the tiny autoencoder: its decoder, behind a linear encoder, on drawn pictures."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lidit_core.vae import TinyAutoencoder

from .linear_encoder import BYPASSED, set_linear_encoder
from .state import EMA, learning_rate, load_state, save_atomically

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


def train_autoencoder(
    recipe: AutoencoderRecipe,
    linear: tuple[Tensor, Tensor],
    draw: Callable[[int, int], Tensor],
    folder: Path,
) -> TinyAutoencoder:
    """Train to the recipe's last step, resuming from ``folder``; returns the EMA model.

    Args:
        linear: the encoder (see lidit_train.linear_encoder).
        draw: (batch, step) -> pictures (batch, 3, H, W) in [0, 1], a function of the step alone.
    """
    torch.manual_seed(recipe.seed)
    model = untrained_autoencoder(recipe, linear).to(memory_format=torch.channels_last)
    ema = EMA(model, recipe.ema)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)
    first = _resume(folder / "state.pt", model, ema, optimiser)
    began = time.monotonic()
    for step in range(first, recipe.steps):
        pictures = draw(recipe.batch, step).contiguous(memory_format=torch.channels_last)
        optimiser.param_groups[0]["lr"] = learning_rate(
            step, recipe.learning_rate, recipe.warmup, recipe.steps, recipe.decay
        )
        b, _, h, w = pictures.shape
        noise = torch.randn(b, 16, h // 8, w // 8, generator=torch.Generator().manual_seed(step))
        loss, l1 = autoencoder_loss(model, pictures, noise, recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        ema.update(model)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            log.info(
                "step %d of %d: L1 %.4f, %.0f s",
                step + 1, recipe.steps, l1, time.monotonic() - began,
            )  # fmt: skip
            state = {"step": step + 1, "model": model.state_dict(), "ema": ema.state_dict()}
            state |= {"optimiser": optimiser.state_dict(), "recipe": str(asdict(recipe))}
            save_atomically(state, folder / "state.pt")
    model.load_state_dict(ema.weights)
    return model.eval()


def untrained_autoencoder(
    recipe: AutoencoderRecipe, linear: tuple[Tensor, Tensor]
) -> TinyAutoencoder:
    """The encoder is final from the start, so latents can be computed before any training."""
    model = TinyAutoencoder((*BYPASSED, *recipe.light)).initialise()
    set_linear_encoder(model, *linear)
    return model


def _resume(path: Path, model, ema: EMA, optimiser) -> int:
    state = load_state(path)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    optimiser.load_state_dict(state["optimiser"])
    log.info("resuming at step %d", state["step"])
    return state["step"]
