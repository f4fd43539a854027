"""How a text encoder lays a prompt's tokens out in rows: what each row of its sequence stands for.

CLIP has 77 rows: a start token, the prompt, an end token, padding; a longer prompt goes on in
another such chunk, and a word is not parted where it fits into the next. T5 has as many rows as
tokens. An LLM has its template around the prompt, tokenised together with it.

ComfyUI tokenises what stands between marks of weights, as in (word:1.3), each piece by itself, so
that T5 may begin each with a token of its own; in a window a short piece stays together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from ..errors import check
from ..io.prompts import without_halves
from ..text.renderer import offsets_in, prompt_span
from ..text.words import WORD, word_number
from .rows import PADDING_ROW, SPECIAL, TEXT, TeacherRows

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenLayout:
    """The rows of one encoder."""

    start: tuple[int, ...] = ()  # ids before each chunk's text
    end: tuple[int, ...] = ()  # ids after it
    before: str = ""  # text that is tokenised with the prompt, before it
    after: str = ""
    window: int = 0  # rows of a chunk, padding included; 0 = one chunk of any length
    least: int = 0  # rows that a sequence is padded to where it has no window
    pad: int = 0  # id of padding
    word: int = (
        0  # tokens of a word that stays in one chunk where it has no more; 0 = any is parted
    )
    most: int = 0  # tokens of a prompt that are read; 0 = all
    numbers: int = 0  # that words share, see `text/words.py`; 0 = each token has its own
    first_id: int = 0  # added to each id, in a table of several tokenizers
    dropped: int = 0  # first rows, of a template, that are kept back from the sequence
    heads: int = 0  # rows before the prompt, those of `before` too
    tails: int = 0  # rows after it, up to the padding

    def __post_init__(self) -> None:
        for name in (
            "window",
            "least",
            "word",
            "most",
            "numbers",
            "first_id",
            "dropped",
            "heads",
            "tails",
        ):
            value = getattr(self, name)
            check(value >= 0, f"the rows' layout has {name}={value}; expected 0 or more")
        object.__setattr__(self, "heads", max(self.heads, len(self.start)))
        object.__setattr__(self, "tails", max(self.tails, len(self.end)))
        check(
            not self.window or self.window > self.heads + self.tails,
            f"the rows' layout has window={self.window}, and {self.heads + self.tails} rows of it "
            "are not the prompt's; expected more",
        )
        check(
            not (self.window and (self.before or self.after)),
            "the rows' layout has a window and text around the prompt; expected one of both",
        )

        check(
            self.dropped <= self.heads,
            f"the rows' layout has dropped={self.dropped}, and {self.heads} rows stand before the "
            "prompt; expected no more",
        )

    @property
    def constants(self) -> int:
        """The number of kinds of rows that are no text: heads, tails, and padding by its place."""
        return self.heads + self.tails + max(self.window, self.least, 1)


SHORT_PIECE = 8  # tokens from which ComfyUI parts a piece between two chunks


@dataclass(frozen=True)
class _Token:
    id: int
    start: int  # characters of the prompt
    stop: int
    word: tuple[int, int] | None = None  # its piece, and its number among the words of that
    piece: int = 0


class RowMaker:
    """Makes the rows of prompts.

    Args:
        tokenizer: of the encoder; special tokens written in a prompt are read as text.
    """

    def __init__(self, layout: TokenLayout, tokenizer: Tokenizer) -> None:
        self.layout, self.tokenizer = layout, tokenizer
        tokenizer.encode_special_tokens = True

    def __call__(self, prompt: str, pieces: Sequence[int] = ()) -> TeacherRows:
        """The rows of one prompt, without a dimension for the batch.

        Args:
            pieces: characters of each part that is tokenised by itself; () = it is one.
        """
        head, text, tail = self._tokens(prompt, pieces)
        rows = [
            (*row, place, chunk)
            for chunk, part in enumerate(self._chunks(text))
            for place, row in enumerate(self._chunk(head, part, tail, len(prompt)))
        ]
        columns = zip(*rows[self.layout.dropped :])
        ids, starts, stops, kinds, constants, places, chunks = columns
        return TeacherRows(
            torch.tensor(ids) + self.layout.first_id,
            torch.tensor([starts, stops], dtype=torch.float32).T.contiguous(),
            torch.tensor(kinds),
            torch.tensor(constants),
            torch.tensor(places),
            torch.tensor(chunks),
            torch.zeros(len(ids), dtype=torch.int64),
        )

    @property
    def makers(self) -> tuple[RowMaker, ...]:
        return (self,)

    def around(self, prompt: str) -> tuple[int, int]:
        """How many rows stand before a prompt, and after it up to the padding."""
        head, _, tail = self._tokens(prompt)
        return len(self.layout.start) + len(head), len(tail) + len(self.layout.end)

    def _tokens(
        self, prompt: str, pieces: Sequence[int] = ()
    ) -> tuple[list[_Token], list[_Token], list[_Token]]:
        """Tokens of the text before the prompt, of the prompt, and of the text after it."""
        layout, length = self.layout, len(prompt)
        head, text, tail = [], [], []
        stops = list(itertools.accumulate(pieces)) or [length]
        for piece, (start, stop) in enumerate(zip([0, *stops], stops)):
            before = layout.before if start == 0 else ""
            after = layout.after if stop == length else ""
            ids, found, (first, last) = self._encoded(prompt[start:stop], before, after)
            head += [_Token(id, 0, 0) for id in ids[:first]]
            text += [
                _Token(id, start + a, start + b, None if word is None else (piece, word), piece)
                for id, (a, b, word) in zip(ids[first:last], found)
            ]
            tail += [_Token(id, length, length) for id in ids[last:]]
        if len(stops) > 1:
            text = self._as_whole(prompt, text)
        return head, text[: layout.most or None], tail

    def _as_whole(self, prompt: str, text: list[_Token]) -> list[_Token]:
        """The tokens of a prompt's pieces with the characters that they have in the whole prompt.

        A token of CLIP's stands for the blank before it too, which may lie in another piece. Where
        the whole has other tokens they are left as they are.
        """
        _, whole, _ = self._tokens(prompt)
        if [token.id for token in whole] != [token.id for token in text]:
            return text
        return [replace(own, start=of.start, stop=of.stop) for own, of in zip(text, whole)]

    def _encoded(self, text: str, before: str, after: str):
        """The ids of a text between two others, characters and word of its own, and their range."""
        whole = without_halves(before + text + after)
        encoded = self.tokenizer.encode(whole, add_special_tokens=False)
        ids, numbers = encoded.ids, self.layout.numbers
        if numbers:
            ids = [word_number(whole[slice(*place)], numbers) for place in encoded.offsets]
        first, last = prompt_span(encoded.offsets, len(before), len(before) + len(text))
        first = 0 if text and not before else first
        last = len(ids) if text and not after else max(first, last)
        places = offsets_in(encoded.offsets, first, last, len(before), len(text))
        words = encoded.word_ids[first:last]
        return ids, [(*place, word) for place, word in zip(places, words)], (first, last)

    def _chunks(self, text: list[_Token]) -> list[list[_Token]]:
        layout = self.layout
        if not layout.window:
            return [text]
        room, chunks = layout.window - layout.heads - layout.tails, [[]]
        kept = layout.word or SHORT_PIECE  # together, if they are fewer
        for group in _words(text) if layout.word else _pieces(text):
            left = room - len(chunks[-1])
            if len(group) > left and len(group) < kept:
                chunks.append([])
            for token in group:
                if len(chunks[-1]) == room:
                    chunks.append([])
                chunks[-1].append(token)
        return chunks

    def _chunk(self, head, text: list[_Token], tail, length: int) -> Iterator[tuple[int, ...]]:
        """Id, characters, kind and constant of each row of a chunk."""
        layout = self.layout
        fore = [*(_Token(id, 0, 0) for id in layout.start), *head]
        aft = [*tail, *(_Token(id, length, length) for id in layout.end)]
        for n, token in enumerate(fore):
            yield token.id, 0, 0, SPECIAL, max(0, min(n, layout.heads - 1))
        for token in text:
            yield token.id, token.start, token.stop, TEXT, -1
        for n, token in enumerate(aft):
            left = min(len(aft) - 1 - n, layout.tails - 1)
            yield token.id, length, length, SPECIAL, layout.heads + max(0, left)
        filled = len(fore) + len(text) + len(aft)
        for place in range(filled, max(layout.window or layout.least, not filled)):
            constant = layout.heads + layout.tails + place
            yield layout.pad, length, length, PADDING_ROW, constant


class JoinedRows:
    """Makes the rows of encoders that follow on one another in one sequence, as in SD3.

    Args:
        makers: of each, in order; constants and chunks are numbered on from one to the next.
    """

    def __init__(self, makers: Sequence[RowMaker]) -> None:
        self.makers = tuple(makers)

    def __call__(self, prompt: str, pieces: Sequence[int] = ()) -> TeacherRows:
        """The rows of one prompt, as those of one encoder."""
        made, constants, chunks = [], 0, 0
        for part, maker in enumerate(self.makers):
            rows = maker(prompt, pieces)
            shifted = rows.constants.where(rows.constants < 0, rows.constants + constants)
            made.append(
                replace(
                    rows, constants=shifted, chunks=rows.chunks + chunks, parts=rows.parts + part
                )
            )
            constants += maker.layout.constants
            chunks += int(rows.chunks.max()) + 1
        columns = (torch.cat([getattr(m, f.name) for m in made]) for f in fields(TeacherRows))
        return TeacherRows(*columns)


AnyRows = RowMaker | JoinedRows


def joined(makers: Sequence[RowMaker]) -> AnyRows:
    """The rows of one encoder, or of several."""
    return makers[0] if len(makers) == 1 else JoinedRows(makers)


def word_rows(numbers: int, length: int) -> RowMaker:
    """The rows of a bag of words: as many of any prompt, a number for each word, then padding."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    return RowMaker(TokenLayout(window=length, most=length, numbers=numbers), core)


def fitted(layout: TokenLayout, tokenizer: Tokenizer) -> TokenLayout:
    """The layout with as many heads and tails as prompts have around them."""
    sides = [RowMaker(layout, tokenizer).around(probe) for probe in ("", "a cat", ".", "\n", "猫")]
    heads, tails = (max(counts) for counts in zip(*sides))
    return replace(layout, heads=heads, tails=tails)


def _pieces(text: Sequence[_Token]) -> Iterator[list[_Token]]:
    """The tokens piece by piece."""
    for _, piece in itertools.groupby(text, lambda token: token.piece):
        yield list(piece)


def _words(text: Sequence[_Token]) -> Iterator[list[_Token]]:
    """The tokens word by word; those of no word each by itself."""
    word: list[_Token] = []
    for token in text:
        if word and (token.word is None or token.word != word[-1].word):
            yield word
            word = []
        word.append(token)
    if word:
        yield word
