"""Tiny bridges: rows of a small tokenizer, random states, a teacher that is known."""

from __future__ import annotations

import torch
from tiny_llm import chat_tokenizer
from tokenizers import Tokenizer

from lidit_core.bridge.config import BridgeConfig, TeacherSpec
from lidit_core.bridge.layout import RowMaker, TokenLayout
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import StudentTokens, TeacherRows, stack_rows
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import INSTRUCTION, PADDING, PROMPT, LLMStates
from lidit_core.text.templates import find_template

START, END = 1, 2
CLIP = TokenLayout(start=(START,), end=(END,), window=16, pad=END, word=8)
PROMPTS = ("a red cat left of two dogs", "an apple", "a banana above a car", "two bees on a dog")


def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(chat_tokenizer().backend_tokenizer.to_str())


def maker(layout: TokenLayout = CLIP) -> RowMaker:
    return RowMaker(layout, tokenizer())


def spec(name: str = "student", width: int = 24) -> LLMSpec:
    return LLMSpec(name, width, template=find_template("short"), token_budget=64)


def config(*llms: LLMSpec, layout: TokenLayout = CLIP, pooled: int = 6, **changes) -> BridgeConfig:
    teacher = TeacherSpec("teacher", 20, 420, layout, pooled)
    fields = {"width": 32, "heads": 4, "blocks": 2, "refiner_blocks": 1}
    return BridgeConfig(llms or (spec(),), teacher, **{**fields, **changes})


def students(
    prompts=PROMPTS, llm: LLMSpec | None = None, seed: int = 0, heads: int = 2
) -> StudentTokens:
    """Random states, a token every three characters, after an instruction."""
    llm = llm or spec()
    counts = [-(-len(prompt) // 3) for prompt in prompts]
    length = heads + max(counts)
    roles = torch.full((len(prompts), length), PADDING, dtype=torch.int32)
    spans = torch.zeros(len(prompts), length, 2)
    for row, (prompt, count) in enumerate(zip(prompts, counts)):
        roles[row, :heads], roles[row, heads : heads + count] = INSTRUCTION, PROMPT
        starts = 3.0 * torch.arange(count)
        ends = (starts + 3).clamp(max=len(prompt))
        spans[row, heads : heads + count] = torch.stack([starts, ends], 1)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(prompts), length, llm.state_width, generator=generator)
    return StudentTokens(LLMStates(hidden, roles), spans)


def rows(prompts=PROMPTS, layout: TokenLayout = CLIP) -> TeacherRows:
    make = maker(layout)
    return stack_rows([make(prompt) for prompt in prompts])


@torch.no_grad()
def randomised(bridge: Bridge, seed: int = 0) -> Bridge:
    """Random numbers in all that it computes with."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in bridge.state_dict().items():
        if "deviation" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif not name.endswith("fixed"):
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return bridge.eval()
