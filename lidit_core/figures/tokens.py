"""The tokens of an LLM that make each word of a prompt."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass

from ..errors import LiDiTError, shown
from ..text.cache import PromptStates
from ..text.emphasis import read_emphasis

WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")  # Chinese is written without blanks
LONGEST = 100_000  # characters of JSON that go along with a prompt's states


@dataclass(frozen=True)
class TokenPlaces:
    """The characters of each token of a prompt, and the tokens' places in what the LLM has read."""

    text: str
    first: int  # tokens of the template before the prompt's
    offsets: tuple[tuple[int, int], ...]  # the characters of each token of the prompt

    @classmethod
    def of(cls, text: str, row: PromptStates) -> TokenPlaces | None:
        """The places of a prompt's tokens as an LLM has read it; None where that is not known."""
        if row.offsets is None:
            return None
        return cls(text, row.span[0], tuple((a, b) for a, b in row.offsets.tolist()))

    def words(self) -> list[tuple[str, tuple[int, ...]]]:
        """Every word with the numbers of its tokens, none for one that was cut off."""
        return [(word.group(), self._tokens(*word.span())) for word in WORD.finditer(self.text)]

    def _tokens(self, start: int, end: int) -> tuple[int, ...]:
        return tuple(
            self.first + n
            for n, (a, b) in enumerate(self.offsets)
            if a < end and max(b, a + 1) > start
        )

    def labels(self, length: int) -> tuple[str, ...]:
        """What each token reads of the prompt; "" for those of the template."""
        pieces = [self.text[a : max(b, a + 1)].strip() for a, b in self.offsets]
        after = length - self.first - len(pieces)
        return ("",) * self.first + tuple(pieces) + ("",) * after

    def to_json(self) -> str:
        return json.dumps([self.text, self.first, self.offsets])

    @classmethod
    def from_json(cls, told: str, length: int) -> TokenPlaces:
        """What `to_json` has written of a prompt whose LLM has read this many tokens.

        Raises:
            LiDiTError: it is something else.
        """
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            text, first, offsets = json.loads(told)
            pairs = tuple((int(a), int(b)) for a, b in offsets)
            if isinstance(text, str) and isinstance(first, int) and first >= 0:
                if first + len(pairs) <= length and min(map(min, pairs), default=0) >= 0:
                    return cls(text, first, pairs)
        raise LiDiTError(
            f"the places of a prompt's tokens are {shown(told)}; expected what the pack has "
            f"written for {length} tokens: encode the prompt again"
        )


def places_told(prompt: str, row: PromptStates, emphasis: bool = False) -> str:
    """The places of a prompt's tokens as JSON; "" where they are not known, or fill a book.

    Args:
        emphasis: whether the prompt was read for weights, whose marks the LLM does not see.
    """
    places = TokenPlaces.of(read_emphasis(prompt).text if emphasis else prompt, row)
    told = places.to_json() if places else ""
    return told if len(told) <= LONGEST else ""
