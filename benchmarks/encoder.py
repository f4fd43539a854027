"""What the text side's speed comes to, as ratios to plain transformers and to fixed limits.

Run: python benchmarks/encoder.py [--llm NAME] [--pairs N]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lidit_core.llm.compat import dtype_argument  # noqa: E402
from lidit_core.llm.loading import load_llm
from lidit_core.llm.locate import available, locate
from lidit_core.text.cache import MEMORY
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.prompt_encoder import PromptEncoder

LLM_NAME = "SmolLM2-135M-Instruct"
OBJECTS = ("cat", "dog", "fox", "panda", "frog", "turtle", "car", "rocket", "house", "cactus")
Measurement = tuple[str, float, float]  # what, measured, not more than


def new_prompts(count: int, seed: int) -> list[str]:
    """Prompts of about 20 tokens, each new."""
    words = [OBJECTS[(seed * 7 + i * 3) % len(OBJECTS)] for i in range(2 * count)]
    return [
        f"a red {words[2 * i]} to the left of two {words[2 * i + 1]}s on a "
        f"{('yellow', 'blue', 'green')[i % 3]} background, {100 + seed * 10 + i}"
        for i in range(count)
    ]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextlib.contextmanager
def new_user_cache() -> Iterator[None]:
    """An empty user cache for the while."""
    before = os.environ.get("LIDIT_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIDIT_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["LIDIT_CACHE"]
            if before is not None:
                os.environ["LIDIT_CACHE"] = before


def first_load(llm_name: str) -> list[Measurement]:
    """Seconds of a load that converts the GGUF; no row where only the converted copy is there."""
    ggufs = sorted(locate(llm_name).folder.glob("*.gguf"))
    source = ggufs[0] if ggufs else llm_name
    with new_user_cache():
        if not available(source) or locate(source).converted:
            return []
        return [("first load with conversion, seconds", seconds(lambda: load_llm(source)), 45.0)]


def plain_forward(model, encoder: LLMEncoder, prompts: list[str]) -> torch.Tensor:
    """What one would write with transformers alone: the whole texts in one padded batch."""
    texts = [encoder.renderer(prompt).ids for prompt in prompts]
    length = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    return out.hidden_states[-3]


def reuse_ratio(encoder: LLMEncoder, model, batch: int, pairs: int) -> float:
    """Median over pairs, run in turn, of our time over that of the plain forward."""

    def ours(prompts: list[str]) -> float:
        return seconds(lambda: encoder.encode(prompts))

    def plain(prompts: list[str]) -> float:
        return seconds(lambda: plain_forward(model, encoder, prompts))

    ratios = []
    for pair in range(pairs + 1):
        prompts = new_prompts(batch, pair)
        if pair % 2:
            ratios.append(ours(prompts) / plain(prompts))
        else:
            ratios.append(1 / (plain(prompts) / ours(prompts)))
    return statistics.median(ratios[1:])  # the first pair warms up


def repeated(llm_name: str, batch: int = 1, times: int = 50) -> float:
    """Median seconds of a prompt that was encoded before."""
    encoder = PromptEncoder(llm_name)
    prompts = new_prompts(batch, 0)
    encoder.encode(prompts)
    return statistics.median(seconds(lambda: encoder.encode(prompts)) for _ in range(times))


def from_disk(llm_name: str, times: int = 20) -> float:
    """Median seconds of a prompt that only the disk cache knows; the LLM is not loaded."""
    prompts = new_prompts(1, 0)
    with tempfile.TemporaryDirectory() as folder:
        PromptEncoder(llm_name, disk_cache=folder).encode(prompts)
        taken = []
        for _ in range(times):
            MEMORY.clear()
            encoder = PromptEncoder(llm_name, disk_cache=folder)
            taken.append(seconds(functools.partial(encoder.encode, prompts)))
            assert not encoder.loaded
        return statistics.median(taken)


def measure(llm_name: str = LLM_NAME, pairs: int = 9) -> list[Measurement]:
    """Every figure as (what, measured, not more than)."""
    from transformers import AutoModel

    load_llm(llm_name)  # converts it if this is the first time, and warms the imports
    load = seconds(lambda: load_llm(llm_name))
    llm = load_llm(llm_name, dtype=torch.float32)
    encoder = LLMEncoder(llm, "paper")
    options = {dtype_argument(): torch.float32}
    model = AutoModel.from_pretrained(locate(llm_name).folder, **options).eval()
    return [
        *first_load(llm_name),
        ("LLM, second load, seconds", load, 3.0),
        ("new prompt, instruction reused / plain", reuse_ratio(encoder, model, 1, pairs), 0.60),
        ("eight new prompts / plain", reuse_ratio(encoder, model, 8, pairs), 0.40),
        ("repeated prompt, milliseconds", 1e3 * repeated(llm_name), 1.0),
        ("repeated prompt from disk, milliseconds", 1e3 * from_disk(llm_name), 1.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llm", default=LLM_NAME)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    for what, measured, limit in measure(options.llm, options.pairs):
        print(f"{what:45} {measured:8.3f}   limit {limit:.2f}")


if __name__ == "__main__":
    main()
