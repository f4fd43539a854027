"""How long a step of training takes, by parts: `python -m benchmarks.training_step --compile`.

A LI-DiT of the stickers' sizes learns from random latents, and from states as long as its captions'
are, on the GPU where there is one. No LLM, font or data is needed; `benchmarks.loader` tells what
reading them adds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from lidit_core.errors import exit_status
from lidit_core.model.config import LiDiTConfig
from lidit_core.model.dit import LiDiT
from lidit_core.model.presets import find_preset
from lidit_core.text.states import INSTRUCTION, PROMPT, LLMStates
from lidit_train.batch import Batch
from lidit_train.loop.ema import EMA
from lidit_train.loop.optimisers import optimisers_of
from lidit_train.recipe import Content, Optimiser
from lidit_train.tasks.lidit.learner import LiDiTLearner

INSTRUCTED, LONGEST = 9, 100  # tokens of the instruction, and of the longest caption with it
SUBSETS = ((0,), (1,), (0, 1))  # of branches, as the recipe's steps read them in turn
WARM_UP = 6  # steps, in which a compiled model meets each subset twice


def random_batch(config: LiDiTConfig, size: int, side: int, subset, device: str) -> Batch:
    """A batch of pictures of side x side pixels."""
    steps = side // config.latent.downsampling
    x = torch.randn(size, config.latent.channels, steps, steps, device=device)
    text = {i: _states(config.llms[i].state_width, size, device) for i in subset}
    patches = steps // config.patch
    shown = torch.randint(0, Content().classes, (size, patches, patches), device=device)
    return Batch(x, torch.randn_like(x), torch.rand(size, device=device), text, shown)


def _states(width: int, size: int, device: str) -> LLMStates:
    lengths = torch.randint(INSTRUCTED + 1, LONGEST + 1, (size, 1), device=device)
    lengths[0] = LONGEST
    roles = (torch.arange(LONGEST, device=device) < lengths).int() * PROMPT
    roles[:, :INSTRUCTED] = INSTRUCTION
    return LLMStates(torch.randn(size, LONGEST, width, device=device), roles)


def measure(config: LiDiTConfig, size: int, side: int, steps: int, compiled: bool, device: str):
    """Mean seconds of each part of a step, in the trainer's order."""
    content = Content(block=min(Content().block, config.depth - 1))
    learner = LiDiTLearner(LiDiT(config).initialise(), content).to(device)
    if compiled:
        for block in learner.blocks():
            block.compile()
    optimisers = optimisers_of(learner, Optimiser(name="muon", learning_rate=2e-3))
    average = EMA(learner, 0.998)
    batches = [random_batch(config, size, side, subset, device) for subset in SUBSETS]
    taken: dict[str, float] = defaultdict(float)

    def timed(part: str, run: Callable[[], Tensor | None]) -> Tensor | None:
        began = time.perf_counter()
        made = run()
        if device == "cuda":
            torch.cuda.synchronize()
        taken[part] += time.perf_counter() - began
        return made

    def forward(batch: Batch) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return learner(batch)[0]

    def clip() -> None:
        trained = [p for p in learner.parameters() if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, 1.0).item()

    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            taken.clear()
        batch = batches[step % len(batches)]
        loss = timed("forward", lambda batch=batch: forward(batch))
        assert loss is not None  # what forward gives
        timed("backward", lambda loss=loss: loss.backward())
        timed("clip", clip)
        for optimiser in optimisers:
            timed(type(optimiser).__name__, optimiser.step)
            optimiser.zero_grad()
        timed("average", lambda: average.update(learner))
    return {part: seconds / steps for part, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="pictures (64)")
    parser.add_argument("--size", type=int, default=128, help="of their side in pixels (128)")
    parser.add_argument("--depth", type=int, help="blocks of the transformer (the preset's)")
    parser.add_argument("--steps", type=int, default=21, help="that are timed (21)")
    parser.add_argument("--compile", action="store_true", help="as the recipe's compute.compile")
    options = parser.parse_args()
    changes = {"depth": options.depth} if options.depth else {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = options.batch, options.size, options.steps, options.compile, device
    taken = measure(find_preset("stickers", **changes), *run)
    for part, seconds in taken.items():
        print(f"{part:10} {seconds * 1000:8.1f} ms")
    total = sum(taken.values())
    print(f"{'step':10} {total * 1000:8.1f} ms   {options.batch / total:.1f} images/s on {device}")


if __name__ == "__main__":
    sys.exit(exit_status("benchmarks.training_step", main))
