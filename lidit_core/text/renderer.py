"""Renders a prompt to token ids through the template, with roles and the reusable instruction.

The template's special tokens enter as ids. Each plain run between them, the one with the prompt
included, is tokenised as one string with special parsing off, so that special-token text in a
prompt stays text and merges across the border are those that the LLM was trained with. Blanks that
a special token takes to itself and the blank that a tokenizer puts before the first word of a text
are as when it reads the whole text at once.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace

from ..errors import LiDiTError
from ..io.prompts import without_halves
from .chat import PLACEHOLDER, reads_parts, render_chat
from .states import INSTRUCTION, PROMPT
from .templates import InstructionTemplate

# Beginnings and ends that make tokenizers merge or split in every way that we know of.
PROBES = ("", "a", "A cat", "7", " ", "  b", "\n", "\n\nc", ".", ":", ",", "'s", "-", "(", '"', "é",
          "\u0301", "猫", "🍎", "_", "<", "\t", "/", "\u200d", "::", ": ")  # fmt: skip


@dataclass(frozen=True)
class PromptTokens:
    """One rendered prompt."""

    ids: tuple[int, ...]  # the whole text
    roles: tuple[int, ...]  # INSTRUCTION or PROMPT, one per id
    span: tuple[int, int]  # token span of the prompt, the template's tail not counted
    used: int  # tokens of the prompt that are in `ids`
    total: int  # tokens of the prompt before it was cut
    offsets: tuple[tuple[int, int], ...] = ()  # characters of the prompt, of each of its tokens


@dataclass(frozen=True)
class TemplateRun:
    """A plain run of the template between two special tokens, or one special token."""

    text: str
    special: int | None = None  # its id


class PromptRenderer:
    """Renders prompts for one tokenizer and one template; holds no weights.

    `token_budget` bounds the prompt's own tokens, the template's are not counted; `context` is
    what the LLM can read in all. `ends`: a text ends with what the tokenizer puts last, as an
    encoder's does; it counts to the template's tail.
    """

    def __init__(
        self,
        tokenizer,
        template: InstructionTemplate,
        token_budget: int,
        context: int,
        ends: bool = False,
    ):
        if token_budget < 1:
            raise LiDiTError(f"token budget is {token_budget}; expected 1 or more")
        self.tokenizer, self.template = tokenizer, template
        self.later = without_dummy_prefix(tokenizer)  # for runs that do not begin the text
        added = tokenizer.added_tokens_decoder.items()
        self.specials = {str(token): (int(i), token) for i, token in added if token.special}
        head, tail = self._sides()
        head, tail = self._runs(head), self._runs(tail)
        self.before = head.pop().text if head and head[-1].special is None else ""
        self.after = tail.pop(0).text if tail and tail[0].special is None else ""
        self.reads = self.later if head else tokenizer  # the run with the prompt
        head_ids = self._ids(head, tokenizer)
        start, end = self._added()
        self.head_ids = self._missing_start(start, head_ids) + head_ids
        self.tail_ids = self._ids(tail, self.later) + (end if ends else [])
        self.budget = min(token_budget, context - len(self._tokens("").ids))
        if self.budget < 1:
            raise LiDiTError(
                f"template {template.name!r} fills the {context} tokens that the LLM can read; "
                "choose a shorter one"
            )
        self.prefix = self._common_prefix()

    def __call__(self, prompt: str) -> PromptTokens:
        """Render one prompt; too long a prompt is cut, never the template."""
        prompt = without_halves(prompt)
        tokens = self._tokens(prompt)
        total, limit = tokens.used, self.budget
        while tokens.used > self.budget:
            prompt = prompt[: self._cut(prompt, limit)]
            tokens, limit = self._tokens(prompt), limit - 1
        return replace(tokens, total=total)

    def _sides(self) -> tuple[str, str]:
        """The whole text before and after the prompt."""
        before, after = self.template.user_turn()
        if not (self.template.chat and self.tokenizer.chat_template):
            system = self.template.system and self.template.system + "\n"
            return system + before, after
        text = render_chat(self.tokenizer, self.template.system, before + PLACEHOLDER + after)
        if text.count(PLACEHOLDER) != 1:
            raise LiDiTError(
                f"the chat template of {self.tokenizer.name_or_path!r} gives the prompt "
                f"{text.count(PLACEHOLDER)} times; use a template with chat = false"
            )
        head, tail = text.split(PLACEHOLDER)
        return head, tail

    def _runs(self, text: str) -> list[TemplateRun]:
        """Split template text at the special tokens."""
        if not self.specials:
            return [TemplateRun(text)] if text else []
        longest_first = sorted(self.specials, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        for i, piece in enumerate(pieces):
            _, token = self.specials.get(piece, (None, None))
            if token and token.lstrip and i > 0:
                pieces[i - 1] = pieces[i - 1].rstrip()
            if token and token.rstrip and i + 1 < len(pieces):
                pieces[i + 1] = pieces[i + 1].lstrip()
        return [
            TemplateRun(piece, self.specials.get(piece, (None,))[0]) for piece in pieces if piece
        ]

    def _added(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer itself puts first and last."""
        marked = self.tokenizer("a")["input_ids"]
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        starts = (i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
        first = next(starts, 0)
        return marked[:first], marked[first + len(plain) :]

    def _missing_start(self, start: list[int], head_ids: list[int]) -> list[int]:
        """The special tokens that the tokenizer itself puts first, unless they are there.

        The chat templates of LLMs have what belongs there. Those of multi-modal checkpoints leave
        it to the tokenizer.
        """
        chat = self.template.chat and self.tokenizer.chat_template
        if chat and not reads_parts(self.tokenizer):
            return []
        return [] if head_ids[: len(start)] == start else start

    def _ids(self, runs: list[TemplateRun], first) -> list[int]:
        """Ids of some runs; the tokenizer `first` reads the first of them."""
        ids: list[int] = []
        for i, run in enumerate(runs):
            reads = self.later if i else first
            ids += (
                [run.special] if run.special is not None else _plain(reads, run.text)["input_ids"]
            )
        return ids

    def _run(self, prompt: str) -> tuple[list[int], list[tuple[int, int]], int, int]:
        """Ids and offsets of the run with the prompt, and the prompt's token span in it."""
        encoded = _plain(self.reads, self.before + prompt + self.after)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        start, stop = prompt_span(offsets, len(self.before), len(self.before) + len(prompt))
        if prompt and not self.before:
            start = 0
        if prompt and not self.after:
            stop = len(ids)
        return ids, offsets, start, max(start, stop)

    def _tokens(self, prompt: str) -> PromptTokens:
        ids, offsets, start, stop = self._run(prompt)
        places = offsets_in(offsets, start, stop, len(self.before), len(prompt))
        span = (len(self.head_ids) + start, len(self.head_ids) + stop)
        ids = [*self.head_ids, *ids, *self.tail_ids] or [self._null()]
        roles = [INSTRUCTION] * span[0] + [PROMPT] * (len(ids) - span[0])
        if not self.template.keep_tail:
            roles[span[1] :] = [INSTRUCTION] * (len(ids) - span[1])
        if PROMPT not in roles:  # an empty prompt: the template's last token stands for it
            roles[-1] = PROMPT
        return PromptTokens(tuple(ids), tuple(roles), span, stop - start, stop - start, places)

    def _null(self) -> int:
        """The one token of an empty prompt where neither template nor tokenizer puts any."""
        tokenizer = self.tokenizer
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
            if token is not None:
                return token
        raise LiDiTError(
            f"the tokenizer {tokenizer.name_or_path!r} has no special token for an empty prompt; "
            "use a template with an instruction"
        )

    def _cut(self, prompt: str, limit: int) -> int:
        """The number of characters that the first `limit` tokens of the prompt span."""
        _, offsets, start, _ = self._run(prompt)
        cut = offsets[start + limit][0] - len(self.before) if limit > 0 else 0
        return min(max(cut, 0), len(prompt) - 1)

    def _common_prefix(self) -> tuple[int, ...]:
        """The first tokens that no probe changes, so hardly any prompt; callers compare ids."""
        texts = [self._tokens(probe).ids for probe in PROBES]
        shortest = min(map(len, texts)) - 1  # at least one token is left to run
        same = next((i for i in range(shortest) if len({t[i] for t in texts}) > 1), shortest)
        return texts[0][:same]


def _plain(tokenizer, text: str) -> dict:
    """Tokenise one plain run; special-token text in it stays text."""
    return tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )


def without_dummy_prefix(tokenizer):
    """The tokenizer, or a copy without the blank that it puts before a text's first word."""
    splits = tokenizer.backend_tokenizer.pre_tokenizer
    if getattr(splits, "prepend_scheme", None) != "first":
        return tokenizer
    tokenizer, splits = copy.deepcopy(tokenizer), copy.deepcopy(splits)
    splits.prepend_scheme = "never"
    tokenizer.backend_tokenizer.pre_tokenizer = splits
    return tokenizer


def prompt_span(offsets: list[tuple[int, int]], start: int, stop: int) -> tuple[int, int]:
    """The token span whose characters overlap [start, stop); tokens across a border count.

    Tokenizers that trim offsets leave blanks out of them: a token then also covers the blanks
    between the end of the token before it and its own beginning.
    """
    first, last, covered = len(offsets), 0, 0
    for index, (a, b) in enumerate(offsets):
        begin, covered = min(a, covered), max(covered, b)
        if covered > start and first == len(offsets):
            first = index
        if begin < stop and (b > a or a < stop):
            last = index + 1
    return first, max(first, last)


def offsets_in(
    offsets: list[tuple[int, int]], start: int, stop: int, before: int, length: int
) -> tuple[tuple[int, int], ...]:
    """The characters of tokens start to stop in a prompt of `length` behind `before` others.

    Blanks before a token count to it, as in `prompt_span`.
    """
    places, covered = [], 0
    for a, b in offsets[:stop]:
        begin, covered = min(a, covered), max(covered, b)
        places.append(tuple(min(max(place - before, 0), length) for place in (begin, b)))
    return tuple(places[start:])
