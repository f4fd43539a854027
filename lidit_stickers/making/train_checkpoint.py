"""Train the checkpoint that misunderstands, for an adapter to repair.

    python -m lidit_stickers.making.train_checkpoint runs/checkpoint \\
        --export stickers-sd.safetensors

A small U-Net of the SD1.5 layout with a weak text encoder of its own (lidit_core.demo.bag_of_words)
learns the sticker scenes by v-prediction on Stable Diffusion's schedule. As the U-Net of a real
checkpoint can draw more than its text encoder tells apart, so does this one: most of its samples
are told by what the scene was asked to show (lidit_stickers.making.request_reader), which is then
thrown away. The same command again goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.demo.bag_of_words import BagOfWords
from lidit_core.demo.checkpoint import DEMO_KEY, TEXT_PREFIX, DemoConfig, read_text_encoder
from lidit_core.diffusion.objectives import noised
from lidit_core.diffusion.times import Focus, sample_time
from lidit_core.errors import check, exit_status
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.model.config import LatentFormat
from lidit_core.model.latents import normalise
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_train.data.autoencoders.find import as_pixels
from lidit_train.data.latent_cache import BATCH
from lidit_train.loop.computing.cpu import has_instructions
from lidit_train.loop.ema import EMA
from lidit_train.loop.learning_rate import rate_factor
from lidit_train.loop.optimisers import optimisers_of
from lidit_train.loop.state_files import StateFiles
from lidit_train.recipe import Optimiser, Source
from lidit_train.tasks.adapter.unet import read_unet, write_ldm

from ..scenes.request import SceneRequest
from ..source import StickerSource
from .drawn import drawn_scene
from .request_reader import RequestReader

log = logging.getLogger(__name__)

SIDE = 64  # pixels: a quarter of the work of 128
PREDICTION = "v"
LENGTH = 77  # words that are read, as of CLIP's tokens; few captions have more
UNET = {  # diffusers' UNet2DConditionModel in the layout of SD1.5's, smaller
    "in_channels": 16,
    "out_channels": 16,
    "sample_size": SIDE // 8,
    "block_out_channels": (96, 96),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 64,
    "attention_head_dim": 4,  # heads: the name is diffusers' mistake
}


@dataclass(frozen=True)
class DemoRecipe:
    scenes: int = 40_000
    images: int = 550_400
    batch: int = 64
    dropout: float = 0.1  # share of samples that read the empty prompt
    told: float = 0.8  # share of samples that are told what was asked for, without words
    shift: float = 1.0  # of training times towards noise, where a picture's content is decided
    focus: Focus | None = Focus(0.1, 0.6, 0.5)  # half of the times, where shapes are decided
    optimiser: Optimiser = field(
        default=Optimiser(
            name="muon", learning_rate=2.5e-3, weight_decay=0.0, warmup=50, decay=0.35, ema=0.99
        )
    )
    save_every: int = 100  # steps
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.images // self.batch


class DemoModel(nn.Module):
    """The U-Net, its text encoder, and the reader of requests that it learns from besides."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        self.unet = UNet2DConditionModel(**UNET)
        self.text = BagOfWords(UNET["cross_attention_dim"], length=LENGTH)
        self.requests = RequestReader(UNET["cross_attention_dim"], LENGTH)
        for table in (self.text.words, self.requests.facts):
            nn.init.normal_(table.weight, std=0.5)

    def start_from(self, checkpoint: Path) -> None:
        """Begin with the U-Net and the text encoder of a demo checkpoint."""
        self.unet.load_state_dict(read_unet(checkpoint).unet.state_dict())
        self.text.load_state_dict(read_text_encoder(checkpoint).state_dict())

    def forward(
        self, z: Tensor, t: Tensor, texts: list[str], requests: list[SceneRequest], told: Tensor
    ) -> Tensor:
        """Predict v of noisy latents z (B, 16, 8, 8) at timesteps t (B,).

        Args:
            told: (B,) bool, the samples that are told their request in place of the text.
        """
        told = told[:, None, None]
        context = torch.where(told, self.requests(requests), self.text.read(texts))
        return self.unet(z, t, context).sample


@torch.no_grad()
def scene_latents(source: StickerSource, folder: Path) -> Tensor:
    """Latents (N, 16, 8, 8) of all scenes, computed once."""
    path = folder / f"latents-{len(source.sizes)}.safetensors"
    if not path.is_file():
        vae, parts = load_vae(SHIPPED_WEIGHTS / "stickers-vae.safetensors"), []
        for first in tqdm(range(0, len(source.sizes), BATCH), unit="batch", desc="latents"):
            numbers = range(first, min(first + BATCH, len(source.sizes)))
            pictures = [drawn_scene(source, i, (SIDE, SIDE)) for i in numbers]
            parts.append(vae.encode(as_pixels(torch.stack(pictures))).to(torch.bfloat16))
        write_safetensors(path, {"latents": torch.cat(parts)}, {})
    return read_safetensors(path)[0]["latents"].float()


def latent_format(latents: Tensor) -> LatentFormat:
    """Each channel's own mean and deviation."""
    mean, std = latents.mean((0, 2, 3)).tolist(), latents.std((0, 2, 3)).tolist()
    return LatentFormat("stickers", mean=tuple(mean), std=tuple(std))


class DemoTrainer:
    """A run in a folder, where it resumes; more images lengthen it without a second decay."""

    def __init__(self, recipe: DemoRecipe, folder: Path, start: Path | None = None) -> None:
        """Prepare the scenes' latents, the model and its optimisers, or resume what is there.

        Args:
            start: a demo checkpoint to begin with; None = begin with random weights.
        """
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        count = recipe.scenes
        self.recipe, self.bf16 = recipe, has_instructions()
        o = recipe.optimiser
        self.files = StateFiles(folder, recipe.steps, o.decay, o.schedule)
        if (state := self.files.load()) is not None:
            known = state.get("scenes", DemoRecipe.scenes)
            told = f"{count} scenes are asked for, and the run in {folder} began with {known}"
            check(count == known, f"{told}; expected as many, or another folder")
        self.source = StickerSource(Source("stickers", "en", count=count, distinct=count))
        latents = scene_latents(self.source, folder)
        self.latent = latent_format(latents)
        self.x = normalise(latents, self.latent)
        self.model = DemoModel()
        if start is not None:
            self.model.start_from(start)
        self.model.to(memory_format=torch.channels_last)
        self.optimisers = optimisers_of(self.model, recipe.optimiser)
        self.ema, self.step = EMA(self.model, recipe.optimiser.ema), 0
        if state is not None:
            self._resume(state)

    def train(self) -> DemoModel:
        """Go on to the recipe's last step; the model with its averaged weights."""
        with tqdm(total=self.recipe.steps, initial=self.step, unit="step") as bar:
            while self.step < self.recipe.steps:
                bar.set_postfix_str(f"loss {self._train_step():.3f}", refresh=False)
                bar.update()
                if self.files.is_due(self.step, self.recipe.save_every):
                    self._save()
        self.model.load_state_dict(self.ema.over(self.model.state_dict()))
        return self.model.eval()

    def _train_step(self) -> float:
        wanted, *given = self._batch()
        with self._fast():
            predicted = self.model(*given)
        loss = F.mse_loss(predicted.float(), wanted)
        loss.backward()
        o = self.recipe.optimiser
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
        factor = rate_factor(self.step, o.warmup, self.recipe.steps, o.decay, o.schedule)
        rate = o.learning_rate * factor
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            with self._fast():  # Muon's products
                optimiser.step()
            optimiser.zero_grad()
        self.ema.update(self.model)
        self.step += 1
        return loss.item()

    def _fast(self) -> torch.autocast:
        """Products in bf16 where the CPU has instructions for them."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, list[str], list[SceneRequest], Tensor]:
        """A step's own, whatever came before: the target, then what the model is given."""
        size, rng = self.recipe.batch, torch.Generator()
        rng.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        rows = torch.randint(len(self.x), (size,), generator=rng)
        x = self.x[rows]
        noise = torch.randn(x.shape, generator=rng)
        time = sample_time(PREDICTION, size, self.recipe.shift, rng, self.recipe.focus)
        dropped = torch.rand(size, generator=rng) < self.recipe.dropout
        captions = [self.source.caption(int(i)) for i in rows]
        texts = ["" if d else caption.text for caption, d in zip(captions, dropped)]
        requests = [caption.request for caption in captions]
        told = (torch.rand(size, generator=rng) < self.recipe.told) & ~dropped
        made = noised(PREDICTION, x, noise, time)
        z = made.z.contiguous(memory_format=torch.channels_last)
        return made.target, z, made.timestep, texts, requests, told

    def _save(self) -> None:
        optimisers = [optimiser.state_dict() for optimiser in self.optimisers]
        model, ema = self.model.state_dict(), self.ema.state_dict()
        state = {"model": model, "ema": ema, "step": self.step, "optimisers": optimisers}
        self.files.save({**state, "scenes": self.recipe.scenes})

    def _resume(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(kept)
        self.step = state["step"]
        log.info("going on at step %d of %d", self.step, self.recipe.steps)


def export(model: DemoModel, latent: LatentFormat, path: Path) -> None:
    """One file in the layout of hosts, bfloat16."""
    width, words = UNET["cross_attention_dim"], model.text
    config = DemoConfig(latent, SIDE, PREDICTION, width, words.buckets, words.length)
    text = {f"{TEXT_PREFIX}{k}": v for k, v in model.text.state_dict().items()}
    notes = {DEMO_KEY: config.to_json(), "font": "Noto Color Emoji, SIL OFL 1.1"}
    write_ldm(model.unet, path, notes, text, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the run keeps its state, and resumes")
    parser.add_argument(
        "--images", type=int, default=DemoRecipe.images, help="to train on; more lengthen a run"
    )
    parser.add_argument(
        "--scenes", type=int, default=DemoRecipe.scenes, help="to learn from; few for a trial"
    )
    parser.add_argument(
        "--start", type=Path, help="a demo checkpoint to begin with, in place of random weights"
    )
    parser.add_argument("--export", type=Path, help="write the averaged weights here at the end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name, least in {"images": DemoRecipe.batch, "scenes": 2}.items():
        value = getattr(options, name)
        check(value >= least, f"--{name} is {value}; expected {least} or more")
    recipe = DemoRecipe(images=options.images, scenes=options.scenes)
    trainer = DemoTrainer(recipe, options.folder, options.start)
    model = trainer.train()
    if options.export:
        export(model, trainer.latent, options.export)


if __name__ == "__main__":
    sys.exit(exit_status("train_checkpoint", main))
