"""The models that an evaluation draws with: a LI-DiT, or a U-Net with an adapter or a bridge."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lidit_core.checkpoints.lidit import read_config
from lidit_core.diffusion.sampling import initial_noise
from lidit_core.errors import check
from lidit_core.io.pictures import to_pixels
from lidit_core.llm.loading import source_fingerprint
from lidit_core.llm.locate import locate
from lidit_core.llmdiff.file import load_adapter
from lidit_core.model.config import LatentFormat
from lidit_core.model.latents import denormalise
from lidit_core.paths import SHIPPED_WEIGHTS, at_home
from lidit_core.shipped import SHIPPED_MODELS, find_model, find_vae
from lidit_core.text.encoder import pad_states
from lidit_core.text.notes import notes_of_reading
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import LLMStates

from .items import DrawingTask

if TYPE_CHECKING:
    from lidit_train.data.autoencoders.find import AutoencoderFile
    from lidit_train.tasks.adapter.target import AdapterTarget, UNetTarget

log = logging.getLogger(__name__)
STEPS, GUIDANCE = 25, 5.0  # of a U-Net, where none are given


def model_file(name: str) -> Path:
    """The file of a shipped name, or of a path.

    Raises:
        LiDiTError: there is none.
    """
    shipped = SHIPPED_WEIGHTS / f"{name}.safetensors"
    path = find_model(name)[0] if name in SHIPPED_MODELS else at_home(name)
    path = shipped if shipped.is_file() and name not in SHIPPED_MODELS else path
    check(path.exists(), f"there is no file {name}; expected a shipped name or a checkpoint")
    return path


def noise_of(tasks: Sequence[DrawingTask], latent: LatentFormat, size: Sequence[int]) -> Tensor:
    """Draw the tasks' noise by their seeds, (B, C, h, w).

    Args:
        size: (width, height) in pixels.
    """
    width, height = (side // latent.downsampling for side in size)
    return initial_noise([task.seed for task in tasks], latent.channels, height, width)


def adapter_source(words: Sequence[str], spec: LLMSpec) -> str:
    """Find the source of an adapter's LLM.

    Args:
        words: what the command line says of it.
        spec: the LLM that was trained on.
    Raises:
        LiDiTError: they name another LLM, or several.
    """
    named = [word.partition("=") for word in words]
    check(
        len(words) <= 1 and all(name == spec.name for name, equals, _ in named if equals),
        f"--llm {' --llm '.join(words)} names another LLM than {spec.name}, which the adapter "
        f"reads, or several; expected SOURCE or {spec.name}=SOURCE",
    )
    return named[0][2] or words[0] if words else spec.name


def autoencoder_of(args: argparse.Namespace) -> AutoencoderFile:
    """Find the autoencoder that the pictures of a command line's model are drawn by.

    Raises:
        LiDiTError: there is none in the checkpoint, beside it or at --vae.
    """
    from lidit_train.data.autoencoders.find import AutoencoderFile, find_autoencoder

    if not (args.adapter or args.bridge):
        path = find_model(args.model)[0]
        return AutoencoderFile(find_vae(read_config(path).latent, path))
    from lidit_train.tasks.adapter.target import unet_target

    target = unet_target(str(model_file(args.model)), "")
    file = find_autoencoder(args.vae or "shipped", target.latent, target.base)
    file.check(target.latent)
    return file


def unet_size(target: UNetTarget | AdapterTarget, size: Sequence[int] | None) -> Sequence[int]:
    """The pictures' width and height, the checkpoint's own where none is given.

    Raises:
        LiDiTError: a U-Net that halves its latents this often draws no such picture.
    """
    grain = target.latent.downsampling * target.patch
    width, height = size or (target.native_size,) * 2
    check(
        width % grain == 0 and height % grain == 0,
        f"--size {width}x{height} is no multiple of {grain}, which the U-Net {target.base} draws "
        f"by; choose one, for example {max(1, width // grain) * grain}x"
        f"{max(1, height // grain) * grain}",
    )
    return width, height


class NotesTold:
    """Logs what a user should know, each sentence once."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def __call__(self, notes: Iterable[str]) -> None:
        for note in dict.fromkeys(notes):
            if note not in self.told:
                log.warning("%s", note)
        self.told.update(notes)


def device_map_of(args: argparse.Namespace) -> str | None:
    """How a U-Net's LLMs are spread over devices, as `open_encoders` spreads a LI-DiT's."""
    return "auto" if args.spread else None


def sampling_of(args: argparse.Namespace) -> tuple[int, float]:
    """Steps and guidance of a U-Net, 0 being a guidance too."""
    steps = STEPS if args.steps is None else args.steps
    return steps, GUIDANCE if args.cfg is None else args.cfg


class AdapterDrawer:
    """Draws with a U-Net and an adapter, by the trainer's own reference sampler."""

    def __init__(self, args: argparse.Namespace, device: str) -> None:
        from lidit_train.recipe import Adapter
        from lidit_train.tasks.adapter.start import learner_of
        from lidit_train.tasks.adapter.target import adapter_target

        check(not args.lora, f"an adapter takes no LoRA here; got --lora {args.lora}")
        adapter = load_adapter(model_file(args.adapter))
        self.spec = spec = adapter.config.llm
        source = adapter_source(args.llm, spec)
        self.mode, self.device = args.mode, device
        self.steps, self.guidance = sampling_of(args)
        self.target = adapter_target(Adapter(str(model_file(args.model)), llm=source))
        self.learner = learner_of(self.target, adapter).to(device)
        self.vae = autoencoder_of(args).open(device)
        shape = spec.template, spec.block, spec.token_budget
        where = device_map_of(args), args.cache
        self.reader = PromptEncoder(source, *shape, None, device, *where)
        self.size = unet_size(self.target, args.size)
        self.told = NotesTold()
        self.told(_stand_in_notes(spec, source))

    def read(self, texts: Sequence[str]) -> LLMStates:
        """The states of texts, each read by itself; what is to be told of them is logged."""
        rows = [self.reader.encode_rows([text])[0] for text in texts]
        of_texts = (n for t, row in zip(texts, rows) for n in notes_of_reading(t, row, self.spec))
        self.told([*self.reader.llm_notes(self.spec), *of_texts])
        return pad_states(rows).to(self.device)

    def draw(self, tasks: Sequence[DrawingTask]) -> Iterator[Tensor]:
        yield from to_pixels(self._pictures(tasks))

    @torch.no_grad()
    def _pictures(self, tasks: Sequence[DrawingTask]) -> Tensor:
        from lidit_train.batch import DrawnPrompts

        latent, prompts = self.target.latent, [task.item.prompt for task in tasks]
        noise = noise_of(tasks, latent, self.size)
        positive, negative = (
            DrawnPrompts(texts, {0: self.read(texts)}) for texts in (prompts, [""] * len(prompts))
        )
        settings = self.steps, self.guidance, self.mode
        latents = self.learner.draw(noise.to(self.device), positive, negative, *settings)
        return self.vae.decode(denormalise(latents, latent))


def _stand_in_notes(spec: LLMSpec, source: str) -> list[str]:
    """A sentence on an LLM of another name than the one trained on; none where it is that one."""
    name = locate(source).name
    if name == spec.name or spec.is_read_by(source_fingerprint(source)):
        return []
    return [f"the LLM {name} stands in for {spec.name}, which the adapter was trained on"]
