"""Draws pictures of prompts without a host: LLMs, LI-DiT, reference sampler, autoencoder.

Every picture has its own seed, and its noise is drawn on the CPU, so that it does not depend on
what else is drawn in the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .branches import choose_llms, open_encoders
from .checkpoints.lidit import load_vae, read_config
from .checkpoints.lora import load_with_loras
from .diffusion.sampling import check_guidance, check_steps, initial_noise, sample
from .diffusion.size import note_of_size
from .dtypes import check_dtype
from .errors import LiDiTError, check, is_whole, shown
from .io.pictures import to_pixels
from .model.config import LiDiTConfig
from .model.dit import LiDiT
from .model.latents import denormalise
from .model.text_side import TEXT_AS_CONFIGURED, TextOptions
from .model.vae import TinyAutoencoder
from .shipped import find_model, find_vae
from .text.cache import PromptStates
from .text.emphasis import read_prompt
from .text.encoder import pad_states
from .text.notes import notes_of_reading
from .text.prompt_encoder import PromptEncoder
from .text.states import LLMStates, stack_states
from .text.templates import InstructionTemplate, find_template

log = logging.getLogger(__name__)

BATCH = 8  # pictures sampled at once


@dataclass(frozen=True)
class Order:
    """One picture that is asked for."""

    prompt: str
    seed: int

    def __post_init__(self) -> None:
        check(
            isinstance(self.prompt, str),
            f"the prompt is {shown(self.prompt)}; expected text, as Order('a frog', seed=0)",
        )
        check(
            is_whole(self.seed) and 0 <= self.seed < 1 << 63,
            f"seed {shown(self.seed)} is out of range; expected a whole number, 0 to 2^63 - 1",
        )


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; None takes what the checkpoint was made for."""

    negative: str = ""
    steps: int | None = None
    guidance: float | None = None  # 1 = the negative prompt is not used
    size: tuple[int, int] | None = None  # width, height in pixels
    emphasis: bool = False  # prompts are read for weights, as (word:1.3)

    def __post_init__(self) -> None:
        check(
            isinstance(self.negative, str),
            f"the negative prompt is {shown(self.negative)}; expected text, '' = none",
        )
        if self.steps is not None:
            check_steps(self.steps)
        if self.guidance is not None:
            check_guidance(self.guidance)
        sides = self.size if isinstance(self.size, (tuple, list)) else (None,)
        check(
            self.size is None or (len(sides) == 2 and all(map(is_whole, sides))),
            f"size is {shown(self.size)}; expected width and height in pixels, as (192, 128)",
        )

    def filled(self, config: LiDiTConfig) -> "Settings":
        """The same settings without a None."""
        native = (config.native_size, config.native_size)
        return Settings(
            self.negative,
            config.steps if self.steps is None else self.steps,
            config.guidance if self.guidance is None else self.guidance,
            self.size or native,
            self.emphasis,
        )


class Pipeline:
    """A loaded LI-DiT with its autoencoder and one prompt encoder for each branch that takes part.

    Args:
        encoders: by branch; at least one.
    """

    def __init__(
        self,
        model: LiDiT,
        vae: TinyAutoencoder,
        encoders: Mapping[int, PromptEncoder],
        device: torch.device | str = "cpu",
    ) -> None:
        self.model, self.vae, self.encoders = model, vae, encoders
        self.device = torch.device(device)

    def pictures(
        self,
        orders: Sequence[Order],
        settings: Settings = Settings(),
        on_step: Callable[[int], None] = lambda pictures: None,
        options: TextOptions = TEXT_AS_CONFIGURED,
    ) -> Iterator[Tensor]:
        """Draw the orders one after the other: (H, W, 3) uint8 each, on the CPU.

        Args:
            on_step: told, after every sampling step, how many pictures took it.
            options: how the text is used.
        """
        check(
            isinstance(orders, Sequence) and all(isinstance(order, Order) for order in orders),
            f"pictures of {shown(orders)} were asked for; expected a list of orders, as "
            "[Order('a frog', seed=0)]",
        )
        check(isinstance(settings, Settings), f"settings is {shown(settings)}; expected Settings")
        check(
            isinstance(options, TextOptions), f"options is {shown(options)}; expected TextOptions"
        )
        settings = settings.filled(self.model.config)
        assert settings.size is not None  # as `filled`
        check_size(settings.size, self.model.config)
        return self._pictures(orders, settings, on_step, options)

    def _pictures(self, orders, settings: Settings, on_step, options) -> Iterator[Tensor]:
        guided = settings.guidance != 1  # else the negative prompt is not even encoded
        told: set[str] = set()
        emphasis = settings.emphasis
        negative = self.encode([settings.negative], told, emphasis) if guided else {}
        for start in range(0, len(orders), BATCH):
            part = orders[start : start + BATCH]
            positive = self.encode([order.prompt for order in part], told, emphasis)
            yield from self._draw(part, positive, negative, settings, on_step, options)

    def encode(
        self, prompts: Sequence[str], told: set[str] | None = None, emphasis: bool = False
    ) -> dict[int, LLMStates]:
        """States by branch, one row a prompt.

        Prompts are encoded one by one: in a batch a bfloat16 LLM gives slightly other numbers.
        What was cut, is longer than the model was trained on or is read otherwise than elsewhere
        is logged, but for the notes in ``told``, to which the new ones are added.

        Args:
            emphasis: whether prompts are read for weights, as in (word:1.3).
        """
        told = set() if told is None else told
        read = {
            branch: [read_prompt(encoder, prompt, emphasis) for prompt in prompts]
            for branch, encoder in self.encoders.items()
        }
        notes = dict.fromkeys((*self._llm_notes(), *self._notes(prompts, read, emphasis)))
        for note in (n for n in notes if n not in told):
            log.warning("%s", note)
        told.update(notes)
        return {
            branch: stack_states([pad_states([row]) for row in rows]).to(self.device)
            for branch, rows in read.items()
        }

    def _llm_notes(self) -> Iterator[str]:
        for branch, encoder in self.encoders.items():
            yield from encoder.llm_notes(self.model.config.llms[branch])

    def _notes(
        self, prompts: Sequence[str], read: Mapping[int, Sequence[PromptStates]], emphasis: bool
    ) -> Iterator[str]:
        for number, prompt in enumerate(prompts):
            for branch, rows in read.items():
                spec = self.model.config.llms[branch]
                yield from notes_of_reading(prompt, rows[number], spec, emphasis)

    @torch.no_grad()
    def _draw(
        self, orders, positive, negative, settings: Settings, on_step, options
    ) -> Iterator[Tensor]:
        latent = self.model.config.latent
        assert settings.size is not None  # as `filled`
        width, height = (side // latent.downsampling for side in settings.size)
        noise = initial_noise([order.seed for order in orders], latent.channels, height, width)
        rows = [0] * len(orders)
        latents = sample(
            self.model,
            noise.to(self.device),
            positive,
            {branch: states[rows] for branch, states in negative.items()},
            settings.steps,
            settings.guidance,
            options,
            on_step=lambda step: on_step(len(orders)),
        )
        check(
            bool(torch.isfinite(latents).all()),
            f"the picture of {shown(orders[0].prompt)} is not finite numbers at guidance "
            f"{settings.guidance}{self._remedy()}",
        )
        for row in denormalise(latents, latent).split(1):
            yield to_pixels(self.vae.decode(row))[0]

    def _remedy(self) -> str:
        if self.model.dtype == torch.float16:
            return (
                " in float16, which does not hold all that a LI-DiT may reach; choose bf16 or "
                "float32 as the dtype to compute in"
            )
        return "; lower that or a LoRA's strength, or fetch the checkpoint again"


def check_size(size: tuple[int, int], config: LiDiTConfig) -> None:
    """Refuse a size that is no multiple of a token's side; warn far from the native size."""
    grain = config.patch * config.latent.downsampling
    width, height = size
    if width < grain or height < grain or width % grain or height % grain:
        near = "x".join(str(max(grain, round(side / grain) * grain)) for side in size)
        raise LiDiTError(
            f"size {width}x{height} does not divide into tokens of {grain}x{grain} pixels; "
            f"choose multiples of {grain}, for example {near}"
        )
    if note := note_of_size(width, height, config):
        log.warning("%s", note)


def find_device(name: str | None) -> str:
    """The device of this name, checked; by default an NVIDIA or AMD GPU, else the CPU."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # the device "meta" holds no number
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise LiDiTError(
            f"device {name!r} cannot be used ({reason}); expected cpu, or cuda or mps where this "
            "PyTorch has it"
        ) from error
    return name


def load_pipeline(
    model: str = "stickers",
    llms: Sequence[str] = (),
    device: str | None = None,
    cache: Path | None = None,
    spread: bool = False,
    loras: Sequence[tuple[str | Path, float]] = (),
    template: str | InstructionTemplate | None = None,
    dtype: torch.dtype = torch.float32,
) -> Pipeline:
    """Everything that is needed to draw.

    Args:
        model: a name of `SHIPPED_MODELS` or the path of a checkpoint.
        llms: see `choose_llms`.
        device: as PyTorch names it; by default an NVIDIA or AMD GPU, else the CPU.
        cache: folder where the states of prompts outlive the process; None for none.
        spread: see `open_encoders`.
        loras: files, each with the strength at which it is added to the model's weights.
        template: the instruction around prompts for every LLM, see `find_template`; None = the
            one that the model was trained on.
        dtype: that LI-DiT computes in, torch.float32, torch.bfloat16 or torch.float16. The noise
            and the latents between the steps are float32 with each of them; the autoencoder
            computes in float32, and an LLM in what suits the device.
    Raises:
        LiDiTError: a file is missing, damaged or of another kind; an LLM is not there or none of
            the model's; a LoRA is of another model; there is no such device or template; LI-DiT or
            the device does not compute in the dtype.
    """
    path, named = find_model(model)
    config = read_config(path)
    device = find_device(device)
    check_dtype(dtype, device)
    chosen = choose_llms(config, llms, named)
    encoders = open_encoders(_read_by(config, template), chosen, device, cache, spread)
    vae = load_vae(find_vae(config.latent, path), device=device)
    return Pipeline(load_with_loras(path, loras, dtype, device), vae, encoders, device)


def _read_by(config: LiDiTConfig, template: str | InstructionTemplate | None) -> LiDiTConfig:
    """The configuration with another template for every LLM; None = as it is."""
    if template is None:
        return config
    found = find_template(template)
    trained = {spec.template.name for spec in config.llms if spec.template != found}
    if trained:
        log.warning(
            "the template %s stands in for %s, which the model was trained on",
            found.name,
            " and ".join(sorted(trained)),
        )
    return replace(config, llms=tuple(replace(spec, template=found) for spec in config.llms))
