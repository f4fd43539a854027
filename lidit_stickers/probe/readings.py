"""What a probe reads: words in any order, and an LLM's states, averaged over a prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from lidit_core.errors import check
from lidit_core.llm.loading import load_llm
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.states import PROMPT

from ..llm_copies import COPIED, RANDOM

BATCH = 16  # prompts
SMOLLM2, GEMMA, MINILM = COPIED, "gemma-3-270m", "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class ProbedReading:
    """One way of reading a prompt; several of one LLM are read in one pass."""

    name: str  # among `--readings`; and the variant of recipes/ablate-readings.yaml
    says: str
    llm: str = ""  # "" = a bag of words
    block: int = 0  # as `load_llm` has it, 0 = the embeddings


READINGS = (
    ProbedReading("bag-of-words", "how often each word occurs"),
    ProbedReading("random", "SmolLM2 with random weights, block -3", RANDOM, -3),
    ProbedReading("embeddings", "SmolLM2, embeddings", SMOLLM2, 0),
    ProbedReading("block-10", "SmolLM2, block 10", SMOLLM2, 10),
    ProbedReading("block-20", "SmolLM2, block 20", SMOLLM2, 20),
    ProbedReading("block-minus-3", "SmolLM2, block -3", SMOLLM2, -3),
    ProbedReading("last", "SmolLM2, last block", SMOLLM2, -1),
    ProbedReading("gemma", "Gemma 3 270M, block -3", GEMMA, -3),
    ProbedReading("minilm", "MiniLM, last block", MINILM, -1),
)


def bag_of_words(learnt: Sequence[str], texts: Sequence[str]) -> Tensor:
    """Count each text's words that occur twice or more in those learnt from: (texts, words)."""
    known = Counter(word for text in learnt for word in _words(text))
    words = sorted(word for word, count in known.items() if count > 1)
    place = {word: number for number, word in enumerate(words)}
    counts = torch.zeros(len(texts), len(words))
    for row, text in enumerate(texts):
        for word in _words(text):
            if word in place:
                counts[row, place[word]] += 1
    return counts


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def mean_states(
    readings: Sequence[ProbedReading], texts: Sequence[str], sources: Mapping[str, str]
) -> dict[str, Tensor]:
    """Each reading's mean state over a prompt's tokens, (texts, width); all are of one LLM."""
    first = readings[0]
    llm = load_llm(sources.get(first.llm, first.llm), "all", torch.float32)
    for reading in readings:
        check(
            -llm.blocks <= reading.block <= llm.blocks,
            f"reading {reading.name} is of block {reading.block}, and {llm.name} has "
            f"{llm.blocks}; leave it out of --readings",
        )
    encoder, found = LLMEncoder(llm, "none"), []
    for start in tqdm(range(0, len(texts), BATCH), desc=llm.name, unit="batch", disable=None):
        rows = encoder.encode_rows(texts[start : start + BATCH])
        found += [row.hidden[row.roles == PROMPT].mean(0) for row in rows]
    states = torch.stack(found).unflatten(-1, (llm.blocks + 1, llm.width))
    return {r.name: states[:, r.block % (llm.blocks + 1)].clone() for r in readings}
