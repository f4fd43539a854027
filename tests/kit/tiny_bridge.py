"""Tiny bridges: rows of a small tokenizer, random states; and a run, from a recording."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from tiny_llm import chat_tokenizer, plain_tokenizer, save_llm
from tokenizers import Tokenizer

from lidit_core.bridge.config import BridgeConfig, TeacherSpec
from lidit_core.bridge.layout import JoinedRows, RowMaker, TokenLayout, fitted
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import StudentTokens, TeacherRows, stack_rows, student_tokens
from lidit_core.bridge.teacher import Teacher, seeds_of, write_teacher
from lidit_core.io.recording import record
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


WORDS = (
    "red cat left of two dogs on a blue background an apple three apples and bananas car".split()
)


def prompts(count: int = 60) -> list[str]:
    chance = random.Random(0)
    return list({" ".join(chance.choices(WORDS, k=chance.randint(2, 9))): 0 for _ in range(count)})


class Windowed:
    """A text encoder of CLIP's shape, with a pooled vector and a first row that is still.

    Args:
        reads: how much it knows of the words before each; 0 = nothing, a bag of words.
        seed: of its weights.
    """

    def __init__(
        self,
        masked: bool = False,
        width: int = 20,
        pooled: int = 6,
        reads: float = 1.0,
        seed: int = 4,
    ) -> None:
        self.reads = reads
        tokenizer = Tokenizer.from_str(plain_tokenizer().backend_tokenizer.to_str())
        layout = TokenLayout(start=(1,), end=(3,), window=14, pad=3, word=8)
        self.layout = fitted(layout, tokenizer)
        self.rows, self.masked = RowMaker(self.layout, tokenizer), masked
        ids, generator = tokenizer.get_vocab_size(), torch.Generator().manual_seed(seed)
        self.table = torch.randn(ids, width, generator=generator)
        self.places = torch.randn(14, width, generator=generator)
        self.to_pooled = torch.randn(width, pooled, generator=generator)
        spec = TeacherSpec("windowed", width, ids, self.layout, pooled, masked=masked)
        self.teacher = Teacher(spec, self.rows, seeds_of(self.table))

    def __call__(self, text: str):
        rows = self.rows(text)
        x = self.table[rows.ids] + self.places[rows.places]
        sums = torch.zeros_like(x)
        for chunk in rows.chunks.unique():
            own = rows.chunks == chunk
            sums[own] = x[own].cumsum(0) / 4
        x = torch.where((rows.places == 0)[:, None], x, x + self.reads * sums.tanh())
        values = {
            "pooled_output": ((sums[-1] if self.reads else x.mean(0)) @ self.to_pooled)[None],
            "guidance": 1.5,
        }
        if self.masked:
            values["attention_mask"] = (rows.kinds != 2).long()[None]
        return [(x[None], values)]


class Following:
    """Two encoders whose rows follow on one another in one sequence, as in SD3."""

    def __init__(self) -> None:
        self.each = Windowed(), Windowed(seed=9, width=20)
        first, second = (each.teacher for each in self.each)
        layout = replace(second.spec.layout, first_id=first.spec.vocabulary)
        ids = first.spec.vocabulary + second.spec.vocabulary
        spec = replace(first.spec, name="following", vocabulary=ids, more=(layout,))
        self.rows = JoinedRows([first.rows, RowMaker(layout, second.rows.tokenizer)])
        self.teacher = Teacher(spec, self.rows, torch.cat([first.seeds, second.seeds]))

    def __call__(self, text: str):
        ((first, values),), ((second, _),) = (each(text) for each in self.each)
        return [(torch.cat([first, 3 - 5 * second], dim=1), values)]


def make_demo_recording(folder: Path, checkpoint: Path, texts=()) -> Path:
    """A recording of a demo checkpoint's own encoder."""
    from lidit_core.cli.record import of_demo

    encode, teacher = of_demo(checkpoint)
    record(encode, list(texts) or prompts(), folder, {"encoder": "bag-of-words"})
    write_teacher(folder, teacher)
    return folder


def make_bridge_world(folder: Path, masked: bool = False, *llms: str) -> dict[str, str]:
    """A recording in ``folder/recording``, one of a weaker encoder in ``folder/weak``, and LLMs;
    where each of those is, by name."""
    for name, teacher in (("recording", Windowed(masked)), ("weak", Windowed(masked, reads=0.0))):
        record(teacher, prompts(), folder / name, {"encoder": "windowed"})
        write_teacher(folder / name, teacher.teacher)
    return {name: str(save_llm(folder / name, vocab_size=500)) for name in llms or ("student",)}


def bridge_fields(folder: Path, *llms: str, **changes) -> dict:
    """The same with fields changed."""
    from tiny_training import with_changes  # which the host's Python cannot import

    return with_changes(recording_fields(folder, *llms), changes)


def recording_fields(folder: Path, *llms: str) -> dict:
    """A recipe over ``folder/recording`` as YAML data; 8 steps of batch 4."""
    sizes = {"width": 32, "heads": 2, "blocks": 1, "refiner_blocks": 1, "held_out": 0.1}
    return {
        "trains": "bridge",
        "bridge": {"llms": [str(folder / name) for name in llms or ("student",)], **sizes},
        "data": {"sources": [{"kind": "recording", "path": str(folder / "recording")}]},
        "stages": [{"images": 32, "batch": 4}],
        "optimiser": {"learning_rate": 1e-2, "warmup": 2},
        "cache": {"dtype": "float32", "folder": str(folder / "cache")},
        "checkpoints": {"every": 2},
        "log": {"every": 1, "trackers": []},
        "compute": {"precision": "float32"},
    }


def bridge_recipe(folder: Path, *llms: str, **changes):
    from tiny_training import write_recipe

    from lidit_train.recipe_file import read_recipe

    return read_recipe(write_recipe(folder, bridge_fields(folder, *llms, **changes)))


def students_of(folder: Path, prompt: str) -> list[StudentTokens]:
    """What the LLM in ``folder/student`` makes of a prompt."""
    from lidit_core.text.encoder import pad_states
    from lidit_core.text.prompt_encoder import PromptEncoder

    rows = PromptEncoder(folder / "student", "none", -3, 256).encode_rows([prompt], offsets=True)
    return [student_tokens(pad_states(rows), rows, [len(prompt)])]
