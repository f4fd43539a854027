"""Requests read without words: what the demo checkpoint's U-Net learns from besides its captions.

The U-Net of a real checkpoint can draw more than its text encoder tells apart. The demo
checkpoint's learns that from requests themselves, where nothing is lost: a token for each group of
objects, with its kind, colour, size, number and place, and one for the background. The reader is
thrown away after the training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..scenes.kinds import BACKGROUNDS, COLOURS, KNOWN_KINDS
from ..scenes.request import MAX_OBJECTS, PLACES, SIZES, Item, SceneRequest

NOTHING = "nothing"  # of the tokens after the last
PLACES_OF = {  # relation -> places of the first and the second group
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}


class RequestReader(nn.Module):
    """Requests to tokens (B, length, width), each the sum of what holds of it."""

    def __init__(self, width: int, length: int) -> None:
        """Make a table of vectors (words, width), a word for each fact that a request can hold.

        Args:
            length: tokens of every request, at least one more than the objects of a scene.
        """
        super().__init__()
        self.length = length
        words = [NOTHING, *(f"background {name}" for name in BACKGROUNDS)]
        words += [f"kind {name}" for name in KNOWN_KINDS] + [f"colour {name}" for name in COLOURS]
        words += [f"size {name}" for name in SIZES] + [f"place {name}" for name in PLACES]
        words += [f"count {number}" for number in range(1, MAX_OBJECTS + 1)]
        self.numbers = {word: number for number, word in enumerate(words)}
        self.facts = nn.EmbeddingBag(len(words), width, mode="sum")

    def forward(self, requests: Sequence[SceneRequest | None]) -> Tensor:
        """Turn B requests into tokens (B, length, width).

        Args:
            requests: None where nothing is told.
        """
        tokens = [token for request in requests for token in self._tokens(request)]
        firsts = torch.tensor([0, *map(len, tokens[:-1])]).cumsum(0)
        numbers = torch.tensor([self.numbers[word] for token in tokens for word in token])
        read = self.facts(numbers, firsts)
        return read.view(len(requests), self.length, -1)

    def _tokens(self, request: SceneRequest | None) -> list[list[str]]:
        told: list[list[str]] = []
        if request is not None:
            places = PLACES_OF.get(request.relation or "", (request.place,) * len(request.items))
            told = [_group(item, place) for item, place in zip(request.items, places, strict=True)]
            if request.background:
                told.append([f"background {request.background}"])
        return told + [[NOTHING]] * (self.length - len(told))


def _group(item: Item, place: str | None) -> list[str]:
    """What holds of a group of equal objects."""
    told = [f"kind {item.kind}", f"count {item.count}"]
    for name, value in (("colour", item.colour), ("size", item.size), ("place", place)):
        if value:
            told.append(f"{name} {value}")
    return told
