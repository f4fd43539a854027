"""Where a picture looks: the cross-attention to each word of its prompt.

seen = look(load_pipeline("stickers"), Order("two cats and a dog", seed=0))
seen.picture  # as `generate` draws it
seen.words[4].map  # (rows, columns): how much each place of the picture looks at "dog"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .errors import check
from .model.dit import LiDiT
from .model.text_side import TEXT_AS_CONFIGURED, TextContext, TextOptions
from .pipeline import Order, Pipeline, Settings
from .text.cache import PromptStates
from .text.emphasis import read_emphasis
from .text.states import LLMStates

WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")  # Chinese is written without blanks


@dataclass(frozen=True)
class WordMap:
    """How much the picture looks at one word as one LLM reads it."""

    llm: str
    word: str
    map: Tensor  # (rows, columns) float32 in 0 to 1: share of a place's attention, mean over all


@dataclass(frozen=True)
class Seen:
    """A picture, and where it looks."""

    picture: Tensor  # (H, W, 3) uint8
    words: tuple[WordMap, ...]  # of the first LLM, then of the second


def look(
    pipeline: Pipeline,
    order: Order,
    settings: Settings | None = None,
    options: TextOptions = TEXT_AS_CONFIGURED,
) -> Seen:
    """Draw a picture and note its attention: the mean over steps, blocks and heads.

    The picture is the same as without looking, up to rounding.
    """
    watch = Watch(pipeline.model)
    model = cast(LiDiT, watch)  # it is called as one, and asked for no more than it has
    watched = Pipeline(model, pipeline.vae, pipeline.encoders, pipeline.device)
    (picture,) = watched.pictures([order], settings or Settings(), options=options)
    text = read_emphasis(order.prompt).text if options.emphasis else order.prompt
    rows = {i: of.encode_rows([text], offsets=True)[0] for i, of in pipeline.encoders.items()}
    return Seen(picture, tuple(watch.words(text, rows)))


class Watch:
    """A LI-DiT that notes the attention of its first picture to the text."""

    def __init__(self, model: LiDiT) -> None:
        self.model, self.config, self.dtype = model, model.config, model.dtype
        self.total, self.calls = torch.zeros(()), 0
        self.places: dict[int, int] = {}  # by branch, what is added to a token's number in it
        self.grid = (0, 0)

    def __call__(
        self, x: Tensor, t: Tensor, text: Mapping[int, LLMStates], options: TextOptions
    ) -> Tensor:
        """As the model's own, see `LiDiT.forward`."""
        self.grid = tuple(-(-side // self.config.patch) for side in x.shape[-2:])
        self.places, start = {}, 0
        refiner = self.config.refiner
        kept = refiner.registers if refiner.registers_kept else 0
        for i in sorted(text):
            states = text[i] if options.of(i).weight else text[i].emptied()
            first = states.rows.first
            self.places[i] = start + kept - first
            start += kept + states.roles.shape[1] - first
        return self.model(x, t, text, options, run_block=self._run)

    def _run(self, index: int, block, x: Tensor, c: Tensor, text: TextContext, attention):
        def noted(q, k, v, heads: int, mask: Tensor | None = None) -> Tensor:
            self._note(q[:1], k[:1], heads, mask if mask is None else mask[:1])
            return attention(q, k, v, heads, mask)

        return block(x, c, text, attention, noted)

    def _note(self, q: Tensor, k: Tensor, heads: int, mask: Tensor | None) -> None:
        """Add the attention of one block, (N, K), of the first picture."""
        q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2).float() for x in (q, k))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        shares = (scores if mask is None else scores + mask.float()).softmax(-1)
        self.total = self.total + shares.mean(dim=1)[0].cpu()
        self.calls += 1

    def words(self, text: str, rows: Mapping[int, PromptStates]) -> Iterator[WordMap]:
        """The maps of a prompt's words.

        Args:
            rows: how each branch's LLM reads it, with the places of its tokens.
        """
        check(self.calls > 0, "no picture was drawn; expected one before its words are asked for")
        attention = self.total / self.calls
        for i, row in rows.items():
            assert row.offsets is not None  # as it was encoded with them
            for word in WORD.finditer(text):
                tokens = [
                    self.places[i] + row.span[0] + n
                    for n, (a, b) in enumerate(row.offsets.tolist())
                    if a < word.end() and max(b, a + 1) > word.start()
                ]
                share = attention[:, tokens].sum(dim=1).reshape(self.grid)
                yield WordMap(self.config.llms[i].name, word.group(), share)
