"""What a LI-DiT does with a prompt, as pictures: the library's figures of the host's model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import torch
import torch.nn.functional as F
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...lidit_core.errors import check
from ...lidit_core.figures.attention import NotedAttention
from ...lidit_core.figures.refiners import ReadPrompt
from ...lidit_core.figures.sheets import refiner_figure, word_lines, words_sheet
from ...lidit_core.figures.tokens import TokenPlaces
from ...lidit_core.figures.words import Seen, WordTokens, first_keys, word_maps
from ...lidit_core.model.config import LiDiTConfig
from ...lidit_core.model.prompt_text import PromptText
from ...lidit_core.text.states import PROMPT, LLMStates
from ..keys import HostEntry
from ..node_notes import note, report
from .branches import branch_of, model_text
from .conditioning import entry_of, text_of
from .conds import ModelText
from .model import config_of_model
from .shift import shifted_for

FIGURES = {
    "refiner attention": "refiner",
    "gates over time": "gates",
    "similarity of states": "similarity",
}
SEED = 0  # of the noise
CELL = 256  # pixels of a cell's longer side at most


def refiners_picture(
    model: ModelPatcher, conditioning: Sequence[HostEntry], figure: str, time: float
) -> Tensor:
    """One of `FIGURES` as an IMAGE; the running node tells its numbers.

    Args:
        time: 1 = noise; the gates are shown at all times.

    Raises:
        LiDiTError: the model is no LI-DiT, the conditioning is not one prompt for it, or holds no
            token.
    """
    config, prompt = config_of_model(model), text_of(*_only(conditioning))
    read = model_text(prompt, config)
    places = _places(prompt, read, config)
    model_management.load_models_gpu([model])
    inner = model.model
    dtype = inner.manual_cast_dtype or inner.get_dtype()
    on_device = read.to(model.load_device)
    side = inner.diffusion_model.text_side
    shown = ReadPrompt(side, on_device.states, places, read.options, dtype)
    picture, lines = refiner_figure(shown, FIGURES[figure], time)
    report("\n".join(lines), result=True)
    return _image(picture)


def words_picture(
    model: ModelPatcher,
    conditioning: Sequence[HostEntry],
    latent: Tensor,
    vae: Any,
    steps: int,
) -> Tensor:
    """A picture, lit where it looks at each word of a prompt, as an IMAGE.

    It is noised to as many levels as there are steps, spread as a sampler's, and the model runs
    once at each.

    Raises:
        LiDiTError: as of `refiners_picture`; or the latent is an empty one.
    """
    config, entry = config_of_model(model), _only(conditioning)
    prompt, latent = text_of(*entry), latent[:1]
    check(
        bool(latent.count_nonzero()),
        "samples is an empty latent, which shows no picture; connect the sampler's, or that of a "
        "picture that the VAE has encoded",
    )
    read = model_text(prompt, config)
    places = _places(prompt, read, config)
    watch = WatchingPatch()
    watched = shifted_for(model, config, latent).clone()
    watched.set_model_attn2_patch(watch.patch)
    kept = {"pooled_output": None, **{k: v for k, v in entry[1].items() if k == "hooks"}}
    _run(watched, [entry_of(prompt, like=[entry[0], kept])], latent, steps)
    attention, keys = watch.noted.mean(), first_keys(config, read.states, read.options)
    words = tuple(
        word
        for i, states in sorted(read.states.items())
        for word in word_maps(
            attention, watch.grid, config.llms[i].name, _words(states, places.get(i)), keys[i]
        )
        if read.options.of(i).weight
    )
    check(bool(words), "no LLM has read a word of this prompt; expected a few words")
    seen = Seen(_small(vae.decode(latent)[0]), words)
    report("\n".join(word_lines(seen)), result=True)
    return _image(words_sheet(seen))


class WatchingPatch:
    """A patch of the attention to the text, which it notes and leaves as it is."""

    def __init__(self) -> None:
        self.noted, self.grid = NotedAttention(), (0, 0)

    def patch(
        self, q: Tensor, k: Tensor, v: Tensor, pe: Any, attn_mask: Tensor | None, extra_options
    ) -> dict[str, Tensor]:
        """Note a call of attention in a DiT: q (B, heads, L, ·), k and v (B, heads, K, ·)."""
        self.noted.note(q, k, attn_mask)
        _, _, rows, columns = extra_options["original_shape"]
        self.grid = (rows, columns)
        return {}


def _run(model: ModelPatcher, prompt: list[HostEntry], latent: Tensor, steps: int) -> None:
    """Run the model once at each noise level; guidance 1 leaves the negative prompt out."""
    noise = comfy.sample.prepare_noise(latent, SEED)
    once = comfy.samplers.KSAMPLER(_once)
    schedule = model.get_model_object("model_sampling")
    for step in range(steps):
        sigma = float(schedule.percent_to_sigma((step + 0.5) / steps))
        sigmas = torch.tensor([sigma, 0.0])
        how = {"disable_pbar": True, "seed": SEED}
        comfy.sample.sample_custom(model, noise, 1.0, once, sigmas, prompt, prompt, latent, **how)


def _once(model: Any, x: Tensor, sigmas: Tensor, extra_args: dict, **_: Any) -> Tensor:
    """A sampler of a single look, in the form of the host's."""
    return model(x, sigmas[:1].expand(len(x)).to(x), **extra_args)


def _only(conditioning: Sequence[HostEntry]) -> HostEntry:
    check(
        len(conditioning) == 1,
        f"conditioning holds {len(conditioning)} prompts; a figure shows one, so connect one from "
        "before they were combined",
    )
    return conditioning[0]


def _places(prompt: PromptText, read: ModelText, config: LiDiTConfig) -> dict[int, TokenPlaces]:
    """Give the places of the branches whose words are known, and tell of the others."""
    known = {branch_of(each, config): each for each in prompt.branches}
    unknown = [each.llm for each in known.values() if not each.places and each.options.weight]
    if unknown:
        note(
            f"the conditioning does not say which words the tokens of {', '.join(unknown)} are, so "
            "they have numbers; encode the prompt again with this version for the words"
        )
    return {
        i: TokenPlaces.from_json(each.places, read.states[i].roles.shape[1])
        for i, each in known.items()
        if each.places
    }


def _words(states: LLMStates, places: TokenPlaces | None) -> WordTokens:
    """A prompt's words with their tokens; tokens by their numbers where words are not known."""
    if places:
        return places.words()
    tokens = (states.roles[0] == PROMPT).nonzero().flatten().tolist()
    return [(f"token {n + 1}", (n,)) for n in tokens]


def _small(picture: Tensor) -> Tensor:
    """Shrink a picture (H, W, 3) in 0 to 1 to no more than a cell, as uint8."""
    share = CELL / max(picture.shape[:2])
    if share < 1:
        size = [math.ceil(side * share) for side in picture.shape[:2]]
        picture = F.interpolate(picture.movedim(-1, 0)[None], size, mode="area")[0].movedim(0, -1)
    return picture[..., :3].float().clamp(0, 1).mul(255).round().byte().cpu()


def _image(picture: Tensor) -> Tensor:
    """Turn a picture (H, W, 3) uint8 into the host's IMAGE, (1, H, W, 3) in 0 to 1."""
    return picture.float().div(255)[None]
