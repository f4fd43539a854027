"""Which tokens of an LLM are which words of a prompt."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ..errors import LiDiTError, shown
from ..text.cache import PromptStates

WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")  # Chinese is written without blanks


@dataclass(frozen=True)
class TokenPlaces:
    """Where the tokens of a prompt stand in it, and where in what the LLM has read."""

    text: str
    first: int  # tokens of the template before the prompt's
    offsets: tuple[tuple[int, int], ...]  # the characters of each token of the prompt

    @classmethod
    def of(cls, text: str, row: PromptStates) -> TokenPlaces | None:
        """Those of a prompt as an LLM has read it; None where that is not known."""
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
    def from_json(cls, told: str) -> TokenPlaces:
        """What `to_json` has written.

        Raises:
            LiDiTError: it is something else.
        """
        try:
            text, first, offsets = json.loads(told)
            pairs = tuple((int(a), int(b)) for a, b in offsets)
            return cls(str(text), int(first), pairs)
        except (TypeError, ValueError) as error:
            raise LiDiTError(
                f"the places of a prompt's tokens are {shown(told)}; expected what the pack has "
                "written: encode the prompt again"
            ) from error
