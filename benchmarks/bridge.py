"""What a bridge costs beside its LLM and beside a picture: `python -m benchmarks.bridge`.

A step of training from a recording, of 77 rows as CLIP has them, by the LLM's encoding of the same
prompts; and what a bridge takes to write a prompt that its LLM has read, by a sticker's picture.
Sizes are the recipe's, weights untrained. Both of a pair run in turn, as times swing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer

from lidit_core.bridge.config import BridgeConfig, TeacherSpec
from lidit_core.bridge.encode import conditioning
from lidit_core.bridge.file import LoadedBridge
from lidit_core.bridge.layout import RowMaker, TokenLayout, fitted
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import stack_rows, student_tokens
from lidit_core.errors import exit_status
from lidit_core.llm.locate import check_present
from lidit_core.model.presets import find_preset
from lidit_core.pipeline import Order, load_pipeline
from lidit_core.text.encoder import LLMEncoder, pad_states
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.spec import LLMSpec
from lidit_train.loop.ema import EMA
from lidit_train.loop.optimisers import optimisers_of
from lidit_train.recipe import BridgeOptions, Optimiser
from lidit_train.tasks.bridge.batches import BridgeBatch
from lidit_train.tasks.bridge.learner import BridgeLearner

from .encoder import LLM_NAME, Measurement, new_prompts, seconds

WINDOW, WIDTH = 77, 768  # of the rows of CLIP-L, and numbers of each and of its pooled vector
STEP, PICTURE = 3.0, 0.05  # what a step, and what writing a prompt, may cost
NEVER = float("inf")  # the limit of what is told alone
OPTIONS = BridgeOptions(llms=(LLM_NAME,))
Timer = Callable[[Callable[[], object]], float]


def busy(call: Callable[[], object]) -> float:
    """Seconds of the processor, all threads' together."""
    start = time.process_time()
    call()
    return time.process_time() - start


def student(encoder: LLMEncoder) -> LLMSpec:
    """The LLM as a recipe's bridge reads it."""
    width = encoder.llm.width
    return LLMSpec(encoder.llm.name, width, OPTIONS.block, encoder.template, OPTIONS.token_budget)


def rows_like_clips(encoder: LLMEncoder) -> RowMaker:
    """77 rows a prompt, by the LLM's own tokenizer."""
    tokenizer = Tokenizer.from_str(encoder.renderer.reads.backend_tokenizer.to_str())
    layout = TokenLayout(start=(1,), end=(2,), window=WINDOW, pad=2)
    return RowMaker(fitted(layout, tokenizer), tokenizer)


def config_of(llm: LLMSpec, teacher: TeacherSpec, **changes) -> BridgeConfig:
    """A bridge of a recipe's sizes."""
    names = ("width", "heads", "refiner_blocks", "collaborative_blocks", "blocks")
    sizes = {name: getattr(OPTIONS, name) for name in names}
    return BridgeConfig((llm,), teacher, **{**sizes, **changes})


def batch_of(encoder: LLMEncoder, config: BridgeConfig, prompts: Sequence[str]) -> BridgeBatch:
    """Prompts with what the LLM makes of them, and random rows to be learnt."""
    maker, read = rows_like_clips(encoder), encoder.encode_rows(prompts)
    rows = stack_rows([maker(prompt) for prompt in prompts])
    tokens = student_tokens(pad_states(read), read, [len(prompt) for prompt in prompts])
    count, spec = len(prompts), config.teacher
    return BridgeBatch(
        torch.randn(*rows.ids.shape, spec.width),
        torch.empty(count, 0),
        torch.ones(count),
        {0: tokens.states.to(dtype=torch.float32)},
        used={0: tuple(row.used for row in read)},
        spans={0: tokens.spans},
        rows=rows,
        pooled=torch.randn(count, spec.pooled),
    )


def step_of(config: BridgeConfig, batch: BridgeBatch) -> Callable[[], float]:
    """A step of training as the trainer takes it; gives the loss before it."""
    learner = BridgeLearner(Bridge(config).initialise())
    optimisers, average = optimisers_of(learner, Optimiser()), EMA(learner, 0.998)

    def step() -> float:
        loss = learner(batch)[0]
        loss.backward()
        trained = [p for p in learner.parameters() if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        average.update(learner)
        return loss.item()

    return step


def training(size: int, rounds: int, timed: Timer) -> list[Measurement]:
    """A step by the encoding of its prompts, and both alone."""
    source = PromptEncoder(LLM_NAME, OPTIONS.template, OPTIONS.block, OPTIONS.token_budget)
    encoder = source.encoder()
    maker, llm = rows_like_clips(encoder), student(encoder)
    ids = maker.tokenizer.get_vocab_size()
    teacher = TeacherSpec("like CLIP-L", WIDTH, ids, maker.layout, WIDTH)
    config = config_of(llm, teacher)
    step = step_of(config, batch_of(encoder, config, new_prompts(size, 0)))
    taken = [
        (timed(step), timed(lambda n=n: encoder.encode_rows(new_prompts(size, n))))
        for n in range(rounds + 1)
    ][1:]  # the first warms up
    return shown(f"a step of {size} prompts, 77 rows each", "their encoding", taken, STEP)


def shown(ours: str, theirs: str, taken: Sequence[tuple[float, float]], limit: float):
    """Rows of a table: medians of both, and of their ratio."""
    first, second = (statistics.median(times) for times in zip(*taken))
    by = statistics.median(one / other for one, other in taken)
    return [
        (f"{ours}, seconds", first, NEVER),
        (f"{theirs}, seconds", second, NEVER),
        (f"{ours}, by {theirs}", by, limit),
    ]


def writing(rounds: int, timed: Timer) -> list[Measurement]:
    """A prompt that a bridge writes in Gemma's place, by a picture of the stickers."""
    from lidit_core.cli.record import _teacher

    gemma = find_preset("stickers").llms[1]
    check_present(gemma.name)
    theirs = PromptEncoder(gemma.name, gemma.template, gemma.block, gemma.token_budget)
    teacher = _teacher(gemma, theirs)
    reader = PromptEncoder(LLM_NAME, OPTIONS.template, OPTIONS.block, OPTIONS.token_budget)
    bridge = Bridge(config_of(student(reader.encoder()), teacher.spec)).initialise().eval()
    bridge.resampler.queries.seeds.copy_(teacher.seeds)
    loaded = LoadedBridge(bridge, teacher.rows, (theirs.encode([""]).hidden, {}))
    pipeline, taken, reading = load_pipeline("stickers", device="cpu"), [], []
    for n in range(rounds + 1):
        prompt, other = new_prompts(2, 100 + n)
        encoders = (reader, theirs)
        reading.append([timed(lambda e=e, p=prompt: e.encode_rows([p], True)) for e in encoders])
        read = reader.encode_rows([prompt], offsets=True)
        given = [student_tokens(pad_states(read), read, [len(prompt)])]
        write = timed(lambda p=prompt, given=given: conditioning(loaded, p, given))
        order = [Order(other, seed=n)]
        taken.append((write, timed(lambda order=order: list(pipeline.pictures(order)))))
    mine, its = (statistics.median(times) for times in zip(*reading[1:]))
    return [
        *shown("a prompt written by a bridge", "a picture", taken[1:], PICTURE),
        (f"{LLM_NAME}'s reading of it, seconds", mine, NEVER),
        (f"{gemma.name}'s, in whose place it stands, seconds", its, NEVER),
    ]


def main() -> int:
    """1 where a limit is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="prompts of a step (64)")
    parser.add_argument("--rounds", type=int, default=7, help="of each pair (7)")
    told = "the processor's seconds, for a machine that others use; with OMP_NUM_THREADS=1"
    parser.add_argument("--busy", action="store_true", help=told)
    asked = parser.parse_args()
    timed = busy if asked.busy else seconds
    check_present(LLM_NAME)
    missed = False
    print(f"{torch.get_num_threads()} threads, {OPTIONS.template!r} as the LLM's template")
    parts = (
        lambda: writing(asked.rounds, timed),
        lambda: training(asked.batch, asked.rounds, timed),
    )
    for part in parts:
        for what, measured, limit in part():
            missed |= measured > limit
            told = "" if limit == NEVER else f"   limit {limit:g}"
            print(f"{what:60} {measured:8.4f}{told}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(exit_status("benchmarks.bridge", main))
