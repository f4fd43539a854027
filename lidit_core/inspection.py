"""What a pipeline does with a prompt: where its picture looks, and what the refiners do.

seen = look(load_pipeline("stickers"), Order("two cats and a dog", seed=0))
seen.picture  # as `generate` draws it
seen.words[4].map  # (rows, columns): how much each place of the picture looks at "dog"

read = read_prompt(load_pipeline("stickers"), "two cats and a dog")
refiner_attention(read)[0].full  # (tokens, tokens): how much each looks at each other
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from .figures.attention import NotedAttention
from .figures.refiners import ReadPrompt, gates_over_time, refiner_attention, state_similarity
from .figures.tokens import TokenPlaces
from .figures.words import Seen, first_keys, word_maps
from .model.dit import LiDiT
from .model.text_side import TEXT_AS_CONFIGURED, TextContext, TextOptions
from .pipeline import Order, Pipeline, Settings
from .text.emphasis import read_emphasis
from .text.encoder import pad_states
from .text.states import LLMStates

__all__ = ["gates_over_time", "look", "read_prompt", "refiner_attention", "state_similarity"]


def look(
    pipeline: Pipeline,
    order: Order,
    settings: Settings | None = None,
    options: TextOptions = TEXT_AS_CONFIGURED,
) -> Seen:
    """Draw a picture and note its attention: the mean over steps, blocks and heads.

    The picture is the same as without looking, up to rounding.
    """
    watch, settings = WatchedLiDiT(pipeline.model), settings or Settings()
    model = cast(LiDiT, watch)  # it is called as one, and asked for no more than it has
    watched = Pipeline(model, pipeline.vae, pipeline.encoders, pipeline.device)
    (picture,) = watched.pictures([order], settings, options=options)
    attention, llms = watch.noted.mean(), pipeline.model.config.llms
    words = tuple(
        word
        for i, of in _places(pipeline, _plain(order.prompt, settings.emphasis)).items()
        for word in word_maps(attention, watch.grid, llms[i].name, of.words(), watch.keys[i])
    )
    return Seen(picture, words)


def read_prompt(
    pipeline: Pipeline,
    prompt: str,
    options: TextOptions = TEXT_AS_CONFIGURED,
    emphasis: bool = False,
) -> ReadPrompt:
    """A prompt as a pipeline's text side reads it, for `refiner_attention` and its neighbours.

    Args:
        emphasis: whether it has marks of weights, as (word:1.3), which the LLMs do not read.

    Raises:
        LiDiTError: the prompt is no text, or no LLM reads a token of it.
    """
    plain, model = _plain(Order(prompt, 0).prompt, emphasis), pipeline.model
    text, places = {}, _places(pipeline, plain)
    for i, encoder in pipeline.encoders.items():
        (row,) = encoder.encode_rows([plain])
        text[i] = pad_states([row]).to(pipeline.device)
    return ReadPrompt(model.text_side, text, places, options, model.dtype)


def _plain(prompt: str, emphasis: bool) -> str:
    """What the LLMs read: without the marks of emphasis, where those are read."""
    return read_emphasis(prompt).text if emphasis else prompt


def _places(pipeline: Pipeline, text: str) -> dict[int, TokenPlaces]:
    rows = {i: of.encode_rows([text], offsets=True)[0] for i, of in pipeline.encoders.items()}
    found = {i: TokenPlaces.of(text, row) for i, row in rows.items()}
    return {i: places for i, places in found.items() if places}


class WatchedLiDiT:
    """A LI-DiT that notes the attention of its first picture to the text."""

    def __init__(self, model: LiDiT) -> None:
        self.model, self.config, self.dtype = model, model.config, model.dtype
        self.noted = NotedAttention()
        self.keys: dict[int, int] = {}  # see `first_keys`
        self.grid = (0, 0)

    def __call__(
        self, x: Tensor, t: Tensor, text: Mapping[int, LLMStates], options: TextOptions
    ) -> Tensor:
        """Predict as `LiDiT.forward` does, and note the attention on the way."""
        rows, columns = (-(-side // self.config.patch) for side in x.shape[-2:])
        self.grid = (rows, columns)
        self.keys = first_keys(self.config, text, options)
        return self.model(x, t, text, options, run_block=self._run)

    def _run(self, index: int, block, x: Tensor, c: Tensor, text: TextContext, attention):
        self.noted.attention = attention
        return block(x, c, text, attention, self.noted)
