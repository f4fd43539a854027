"""Train the tiny autoencoder's decoder, behind an encoder that stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.errors import LiDiTError
from lidit_core.model.vae import ResidualBlock, TinyAutoencoder

from ..loop.ema import EMA
from ..loop.learning_rate import rate_factor
from ..loop.muon import Muon
from ..loop.state_files import StateFiles
from ..ranges import one_of
from ..recipe import PRECISIONS
from .dead_units import revive
from .linear_encoder import BYPASSED, set_linear_encoder

log = logging.getLogger(__name__)

SAMPLE = 64  # crops that show which units respond
STRONG = 90 / 255  # a difference of neighbouring pixels that is a strong edge


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How an autoencoder was, or is to be, trained."""

    start: str = ""  # a file in TAESD's layout: its encoder is kept, its decoder goes on; "" = a
    # new decoder behind a linear encoder
    sides: tuple[int, ...] = (128,)  # of the whole pictures that crops are cut from, pixels
    crop: int = 48  # side of a crop, pixels; a multiple of 8
    batch: int = 8  # crops a step
    wide_every: int = 0  # steps; each such step sees a quarter of the crops, of twice the side, so
    # that the decoder learns with more around what it draws; 0 = none
    steps: int = 2000
    learning_rate: float = 1.25e-3  # of Muon for kernels and AdamW for biases
    warmup: int = 50  # steps
    decay: float = 0.5  # share of the steps over which the rate falls to zero
    ema: float = 0.995
    edges: float = 1.0  # weight of the L1 of horizontal and vertical differences
    lost_edges: float = 0.0  # further weight of what strong differences lose; 0 = none. Where a
    # decoder cannot know, the L1 is least at too weak a difference
    noise: float = 0.03  # deviation of the noise on latents: decoders must bear a model's errors
    restored: str = ""  # a file of latents as a model gives them (lidit_stickers.making.restore)
    restored_share: float = 0.5  # of the steps that learn from that file
    save_every: int = 100  # steps; a GPU makes a hundred in seconds, so give it thousands
    seed: int = 0
    workers: int = 0  # processes that draw crops ahead; they change nothing but the time
    precision: str = "float32"  # on a GPU, with its faster products (TF32), or bf16; a CPU
    # computes in float32

    def __post_init__(self) -> None:
        for name in ("crop", "batch", "steps", "save_every"):
            if getattr(self, name) < 1:
                raise LiDiTError(f"the autoencoder's {name} is {getattr(self, name)}; expected 1+")
        if self.workers < 0:
            raise LiDiTError(f"the autoencoder's workers is {self.workers}; expected 0 or more")
        one_of("the autoencoder's precision", self.precision, PRECISIONS)
        if self.crop % 8 or any(side < 2 * self.crop for side in self.sides) or not self.sides:
            raise LiDiTError(
                f"the autoencoder's crop is {self.crop} and its sides are {list(self.sides)}; "
                "expected a multiple of 8, and sides of twice the crop or more"
            )

    def shape(self, step: int) -> tuple[int, int]:
        """The number of crops of a step, and their side in pixels."""
        wide = self.wide_every and step % self.wide_every == self.wide_every - 1
        return (max(1, self.batch // 4), 2 * self.crop) if wide else (self.batch, self.crop)


@dataclass(frozen=True, eq=False)
class Crops:
    """What a step learns from.

    pictures: (B, 3, H, W) in [0, 1].
    latents: (B, 16, H/8, W/8) to decode in place of the encoder's, or None.
    """

    pictures: Tensor
    latents: Tensor | None = None

    def pin_memory(self) -> Crops:
        """The same where a GPU fetches it while the CPU goes on; the loader asks for it."""
        latents = None if self.latents is None else self.latents.pin_memory()
        return Crops(self.pictures.pin_memory(), latents)


@dataclass(frozen=True, eq=False)
class _Draws(Dataset[Crops]):
    """What each step learns from, by the step's number: the data set that workers read."""

    recipe: AutoencoderRecipe
    draw: Callable[[int, int, int], Crops]

    def __getitem__(self, step: int) -> Crops:
        return self.draw(*self.recipe.shape(step), step)


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.diff(dim=2), x.diff(dim=3)


def lost(ours: Tensor, true: Tensor) -> Tensor:
    """The mean by which strong differences are weaker than they should be; (B, 3, H, W) both."""
    weaker = ((true - ours) * true.sign()).clamp(min=0)
    return (weaker * (true.abs() > STRONG)).mean()


def decoder_loss(
    rebuilt: Tensor, pictures: Tensor, edges: float, lost_edges: float = 0.0
) -> tuple[Tensor, Tensor]:
    """L1, L2 and losses of differences together, and the plain L1 alone; (B, 3, H, W) both."""
    l1 = F.l1_loss(rebuilt, pictures)
    loss = l1 + F.mse_loss(rebuilt, pictures)
    for ours, true in zip(_edges(rebuilt), _edges(pictures), strict=True):
        loss = loss + edges * F.l1_loss(ours, true)
        if lost_edges:
            loss = loss + lost_edges * lost(ours, true)
    return loss, l1.detach()


def untrained_autoencoder(linear: tuple[Tensor, Tensor]) -> TinyAutoencoder:
    """The encoder is final from the start, so latents can be computed before any training."""
    model = TinyAutoencoder(BYPASSED).initialise()
    set_linear_encoder(model, *linear)
    return model


def going_on_from(path: str | Path, pictures: Tensor) -> TinyAutoencoder:
    """A file's autoencoder with its encoder frozen and every unit of its decoder able to learn.

    Args:
        pictures: (B, 3, H, W) in [0, 1]; what never responds to them starts afresh.
    """
    model = load_vae(path)
    for block in model.taesd_decoder.modules():
        if isinstance(block, ResidualBlock):
            block.take_part()
    with torch.no_grad():
        revived = revive(model.taesd_decoder, model.encode(pictures))
    log.info("%d units of the decoder did not respond and start afresh", revived)
    model.taesd_encoder.requires_grad_(False)
    return model


def _optimisers(model: TinyAutoencoder) -> list[torch.optim.Optimizer]:
    """Muon for kernels, AdamW for biases; every rate is set before each step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    kernels = Muon([p for p in trained if p.ndim > 1], lr=0.0)
    biases = [p for p in trained if p.ndim <= 1]
    return [kernels, torch.optim.AdamW(biases, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)]


class AutoencoderTrainer:
    """A run in a folder, where it resumes; more steps lengthen it without a second decay.

    Args:
        linear: makes the encoder where the recipe has no start, see `linear_encoder`.
        draw: (crops, side, step) -> what the step learns from, decided by these numbers alone.
        device: as PyTorch names it; the CPU waits for a GPU only where a state is saved.
    """

    def __init__(
        self,
        recipe: AutoencoderRecipe,
        linear: Callable[[], tuple[Tensor, Tensor]],
        draw: Callable[[int, int, int], Crops],
        folder: Path,
        device: str = "cpu",
    ) -> None:
        self.files = StateFiles(folder, recipe.steps, recipe.decay)
        state = self.files.load()
        torch.manual_seed(recipe.seed)
        self.recipe, self.draw, self.device = recipe, draw, torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        if self.on_gpu:
            torch.set_float32_matmul_precision("high")  # cuDNN takes TF32 without being told
        self.model = self._begin(linear).to(device, memory_format=torch.channels_last)
        self.ema = EMA(self.model, recipe.ema)
        self.optimisers = _optimisers(self.model)
        self.step = 0
        if state is not None:
            self._take_up(state)

    def _begin(self, linear: Callable[[], tuple[Tensor, Tensor]]) -> TinyAutoencoder:
        if not self.recipe.start:
            return untrained_autoencoder(linear())
        some = self.draw(SAMPLE, self.recipe.crop, 0)
        return going_on_from(self.recipe.start, some.pictures)

    def train(self) -> TinyAutoencoder:
        """Go on to the recipe's last step; returns the model with the averaged weights."""
        errors: list[Tensor] = []
        for crops in self._drawn_ahead():
            errors.append(self._train_step(crops))
            if self.files.is_due(self.step, self.recipe.save_every):
                told = self.step, self.recipe.steps, torch.stack(errors).mean().item()
                log.info("step %d of %d: L1 %.4f", *told)
                errors.clear()
                self._save()
        return self.averaged()

    def averaged(self) -> TinyAutoencoder:
        """The model with its averaged weights in place, on the CPU."""
        self.model.load_state_dict(self.ema.over(self.model.state_dict()))
        return self.model.eval().cpu()

    def _drawn_ahead(self) -> Iterator[Crops]:
        """What the steps from the present one on learn from, in their order."""
        workers = self.recipe.workers
        return iter(
            DataLoader(
                _Draws(self.recipe, self.draw),
                batch_size=None,
                sampler=range(self.step, self.recipe.steps),
                num_workers=workers,
                prefetch_factor=4 if workers else None,
                pin_memory=self.on_gpu,
                generator=torch.Generator(),  # or else it takes a number from the run's own
            )
        )

    def _train_step(self, crops: Crops) -> Tensor:
        """Train one step; return its mean absolute error."""
        pictures = crops.pictures.to(
            self.device, non_blocking=True, memory_format=torch.channels_last
        )
        latents = self._latents(crops, pictures)
        mixed = self.on_gpu and self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            rebuilt = self.model.taesd_decoder(latents)
        weights = self.recipe.edges, self.recipe.lost_edges
        loss, l1 = decoder_loss(rebuilt.float(), pictures, *weights)
        loss.backward()
        self._update()
        self.ema.update(self.model)
        self.step += 1
        return l1

    @torch.no_grad()
    def _latents(self, crops: Crops, pictures: Tensor) -> Tensor:
        """The latents of a model as they are, or the encoder's with noise that the step decides."""
        if crops.latents is not None:
            return crops.latents.to(self.device, non_blocking=True)
        latents = self.model.encode(pictures)
        g = torch.Generator(self.device).manual_seed(self.step)
        noise = torch.randn(latents.shape, generator=g, device=self.device)
        return latents + self.recipe.noise * noise

    def _update(self) -> None:
        r = self.recipe
        rate = r.learning_rate * rate_factor(self.step, r.warmup, r.steps, r.decay)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad()

    def _save(self) -> None:
        optimisers = [optimiser.state_dict() for optimiser in self.optimisers]
        model, ema = self.model.state_dict(), self.ema.state_dict()
        made = {"step": self.step, "recipe": repr(self.recipe)}
        self.files.save({**made, "model": model, "ema": ema, "optimisers": optimisers})

    def _take_up(self, state: dict) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.ema.weights = {k: v.to(self.device) for k, v in self.ema.weights.items()}
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        log.info("resuming at step %d of %d", self.step, self.recipe.steps)
