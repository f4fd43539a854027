"""What tells one LLM's weights from another's, however they are stored: its fingerprint.

It is text, "1:NORMS:ROWS". NORMS is a hash of the norms of the first block, which quantised files
keep whole and training changes. ROWS are signs of sums over rows of the embeddings: of the 128 of
SmolLM2 and Gemma 3, fp8 turned none and one, Q4_0 two and five, two bits 22 and 20, and the other
of both LLMs 71. A LoRA that trained neither norms nor embeddings leaves both as they were, and of
an LLM published in float32 a float16 copy counts as another.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

VERSION = "1"
FIRST, STEP, TOKENS = 256, 56, 32  # whose embeddings are looked at
PARTS = 4  # of a row, each summed
TURNED = 0.25  # of all signs, that may differ between copies of one LLM
GRID = 2**-14 * math.sqrt(2)  # norms are told apart by it; no number of bfloat16 is at its edges


def tokens(count: int) -> list[int]:
    """The tokens, of so many, whose embeddings a fingerprint needs."""
    return [(FIRST + STEP * number) % count for number in range(TOKENS)]


def fingerprint(rows: Tensor, norms: Mapping[str, Tensor]) -> str:
    """The fingerprint of an LLM.

    Args:
        rows: embeddings (32, C) of `tokens`.
        norms: weights of the first block's norms, by their names in it.
    """
    digest = hashlib.sha256()
    for name, norm in sorted(norms.items()):
        steps = (norm.detach().cpu().to(torch.bfloat16).double() / GRID).round().long()
        digest.update(f"{name} {steps.flatten().tolist()}".encode())
    rows = rows.detach().cpu().double()
    parts = (rows - rows.mean(0)).tensor_split(PARTS, dim=1)  # tokens have much in common
    signs = torch.stack([part.sum(1) > 0 for part in parts], 1).flatten().tolist()
    number = sum(sign << place for place, sign in enumerate(signs))
    return f"{VERSION}:{digest.hexdigest()[:16]}:{number:0{TOKENS * PARTS // 4}x}"


def same_llm(one: str, other: str) -> bool | None:
    """Whether two fingerprints are of one LLM, perhaps stored otherwise; None = not known."""
    pair = one.split(":"), other.split(":")
    if not all(len(parts) == 3 and parts[0] == VERSION for parts in pair):
        return None  # "", or of a later version
    (_, norms, rows), (_, other_norms, other_rows) = pair
    try:
        turned = (int(rows, 16) ^ int(other_rows, 16)).bit_count()
    except ValueError:
        return None
    return norms == other_norms and turned <= TURNED * TOKENS * PARTS
