"""What an LLM writes: a short prompt written out, if it was tuned for chat, or what comes next."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import check, is_number, is_whole, shown
from ..llm.loading import LLM
from ..llm.writer import writer
from ..progress import tell
from .chat import PLACEHOLDER, render_chat
from .renderer import PromptRenderer
from .templates import InstructionTemplate, find_template, with_texts

REPLY = "\ue0f3reply\ue0f4"  # private-use characters, as `PLACEHOLDER`
INSTRUCTION = """\
Describe pictures in two or three sentences. Keep all that the words name, and add colors, \
materials, light and background.

Words: an owl on a book
Picture: A small brown owl with round yellow eyes sits on a thick old book with a red cover. The \
book lies on a wooden table. Soft light falls from the left, and the background is dark green.

Words: two green cups
Picture: Two green cups of smooth porcelain stand side by side on a white cloth. Steam rises from \
both. Behind them is a plain grey wall in warm morning light.

Words: {prompt}
Picture:"""  # ours; small LLMs follow two examples better than rules
THOUGHT = re.compile(r"(?s)<think>.*?(</think>|$)")  # of LLMs that think before they reply
SENTENCE = re.compile(r"(?s).*[.!?。！？]['\"”’」』)]*(?=\s|$)")  # up to the end of the last one


@dataclass(frozen=True)
class Expansion:
    """How a prompt is written out."""

    instruction: str = ""  # the user's turn, or what stands before the prompt in it; "" = ours
    seed: int = 0
    temperature: float = 0.7  # 0 = the likeliest token each time
    top_p: float = 0.9  # of the likeliest tokens that are drawn from, their share
    max_tokens: int = 96

    def __post_init__(self) -> None:
        check(
            is_whole(self.seed) and self.seed >= 0,
            f"seed is {shown(self.seed)}; expected a whole number from 0 on",
        )
        check(
            is_whole(self.max_tokens) and 1 <= self.max_tokens <= 4096,
            f"max_tokens is {shown(self.max_tokens)}; expected a whole number from 1 to 4096",
        )
        for name, low, high in (("temperature", 0, 2), ("top_p", 0.01, 1)):
            value = getattr(self, name)
            check(
                is_number(value) and low <= value <= high,
                f"{name} is {shown(value)}; expected a number from {low} to {high}",
            )


@dataclass(frozen=True)
class Expanded:
    """What an LLM wrote."""

    text: str
    tokens: int  # that it wrote
    added: int  # bytes that writing took beside the LLM that was loaded
    cut: bool = (
        False  # whether it was stopped at the most tokens; its last sentence is then left out
    )


class ReplyRenderer(PromptRenderer):
    """Renders a request up to where the LLM's reply begins; `end` is what follows a reply."""

    end = ""

    def _sides(self) -> tuple[str, str]:
        before, after = self.template.user_turn()
        turn = before + PLACEHOLDER + after
        text = render_chat(self.tokenizer, self.template.system, turn, REPLY)
        check(
            text.count(PLACEHOLDER) == text.count(REPLY) == 1
            and text.find(REPLY) > text.find(turn),
            f"the chat template of {self.tokenizer.name_or_path!r} does not say where a reply "
            "goes; expected one of an LLM that was tuned for chat, so choose another LLM",
        )
        asked, self.end = text.split(REPLY)
        head, tail = asked.split(PLACEHOLDER)
        return head, tail

    def stops(self) -> list[int]:
        """The tokens that end a reply."""
        runs = self._runs(self.end.strip())
        ends = [runs[0].special] if runs and runs[0].special is not None else []
        return sorted({*ends, self.tokenizer.eos_token_id} - {None})


def check_writes(llm: LLM) -> None:
    """Raise a LiDiTError unless an LLM was tuned to follow what it is told."""
    check(
        bool(getattr(llm.tokenizer, "chat_template", None)),
        f"{llm.name} has no chat template: it is a base model, which goes on with a text and "
        "follows no instruction; choose an LLM that was tuned for chat, as SmolLM2-135M-Instruct, "
        "or write the prompt out yourself",
    )


def reply_renderer(llm: LLM, expansion: Expansion) -> ReplyRenderer:
    """What makes token ids of a prompt that is to be written out.

    Raises:
        LiDiTError: the LLM is a base model, or its chat template has no place for a reply.
    """
    check_writes(llm)
    said = expansion.instruction.strip() or INSTRUCTION
    template = with_texts(InstructionTemplate("expansion"), instruction=said)
    room = max(llm.context - expansion.max_tokens, 1)
    return ReplyRenderer(llm.tokenizer, template, room, room)


def expand(
    llm: LLM,
    source: str | Path,
    prompt: str,
    expansion: Expansion = Expansion(),
    device: torch.device | str | None = None,
    make_room: Callable[[int], object] = int,
) -> Expanded:
    """Write a prompt out with a loaded LLM, whose other blocks, norm and head are mapped meanwhile.

    The same seed writes the same text on the same machine.

    Args:
        source: what the LLM was loaded from; see `lidit_core.llm.locate`.
        device: where it computes; by default where its inputs go.
        make_room: is told how many bytes will be added to the LLM, before they are.

    Raises:
        LiDiTError: the LLM is a base model, its files lack the rest, or the prompt is empty.
    """
    check(bool(prompt.strip()), "the prompt is empty; expected a few words that can be written out")
    renderer = reply_renderer(llm, expansion)
    ids, place = renderer(prompt).ids, torch.device(device or llm.device)
    llm.check_tokens(ids)
    with writer(llm, source, place, make_room) as made:
        reply = _written(made.model, ids, place, renderer.stops(), expansion)
        added = made.added
    return finished(llm.tokenizer, reply, renderer.stops(), Expanded("", 0, added))


def continued(
    llm: LLM,
    source: str | Path,
    prompt: str,
    template: str | InstructionTemplate,
    max_tokens: int = 24,
    device: torch.device | str | None = None,
    make_room: Callable[[int], object] = int,
) -> str:
    """What an LLM would write next after a prompt as a template has it, base models too.

    It is the likeliest text, with what stands for special tokens. The paper's Figure 4 compares
    it with and without instruction: what an LLM is about to write is what its states hold.

    Args:
        source: what the LLM was loaded from; see `lidit_core.llm.locate`.
        max_tokens: written at most, 1 to 4096.
        make_room: is told how many bytes will be added to the LLM, before they are.

    Raises:
        LiDiTError: the LLM's files lack what it needs to write, or its kind does not write.
    """
    how = Expansion(temperature=0, max_tokens=max_tokens)
    ids, place = ids_before(llm, prompt, template, max_tokens), torch.device(device or llm.device)
    with writer(llm, source, place, make_room) as made:
        reply = _written(made.model, ids, place, ends_of(llm), how)
    return llm.tokenizer.decode(reply)


def ids_before(
    llm: LLM, prompt: str, template: str | InstructionTemplate, max_tokens: int
) -> tuple[int, ...]:
    """The tokens of a prompt as a template has it, after which `max_tokens` have room.

    Raises:
        LiDiTError: there are none.
    """
    room, tokenizer = max(llm.context - max_tokens, 1), llm.tokenizer
    ids = PromptRenderer(tokenizer, find_template(template), room, room)(prompt).ids
    start = tokenizer.bos_token_id
    ids = ids or ((start,) if start is not None else ())
    check(bool(ids), f"{llm.name} reads nothing of an empty prompt; expected a few words")
    llm.check_tokens(ids)
    return ids


def ends_of(llm: LLM) -> list[int]:
    """The tokens after which an LLM writes no more."""
    end = llm.tokenizer.eos_token_id
    return [] if end is None else [end]


def finished(tokenizer, reply: list[int], stops: list[int], so_far: Expanded) -> Expanded:
    """The text of a reply; one that was stopped ends with its last whole sentence."""
    cut = not reply or reply[-1] not in stops
    text = THOUGHT.sub("", tokenizer.decode(reply, skip_special_tokens=True))
    text = " ".join(text.split())
    whole = SENTENCE.match(text) if cut else None
    text = whole[0] if whole else text
    check(
        bool(text),
        "the LLM wrote nothing; try another seed or instruction, or write the prompt out yourself",
    )
    return replace(so_far, text=text, tokens=len(reply), cut=cut)


def _written(
    model: Any, ids: tuple[int, ...], device: torch.device, stops: list[int], how: Expansion
) -> list[int]:
    """The tokens of a reply."""
    from transformers import GenerationConfig, StoppingCriteriaList

    drawn = {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=how.max_tokens,
        do_sample=how.temperature > 0,
        eos_token_id=stops,
        pad_token_id=stops[0] if stops else 0,
        **(drawn if how.temperature > 0 else {}),
    )

    def told(written: torch.Tensor, _, **__) -> torch.Tensor:
        tell("writing the prompt out", (written.shape[1] - len(ids)) / how.max_tokens)
        return torch.zeros(len(written), dtype=torch.bool, device=written.device)

    given = torch.tensor([ids], device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(how.seed)
        written = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([told]),
        )
    return written[0, len(ids) :].tolist()
