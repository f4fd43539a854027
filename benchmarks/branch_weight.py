"""How an LLM's weight goes over into its removal: `python -m benchmarks.branch_weight`.

One step of a model that reads several LLMs. The distance of its prediction to that without the LLM
is told as a share of what it is at weight 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lidit_core.errors import check, exit_status
from lidit_core.model.dit import LiDiT
from lidit_core.model.refiners import BranchOptions
from lidit_core.model.text_side import TextOptions
from lidit_core.pipeline import load_pipeline
from lidit_core.text.states import LLMStates

WEIGHTS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
PROMPT = "two cats and a dog on a yellow background"
TIME, SIDE = 900.0, 16  # of the step, and of its latent


@torch.no_grad()
def step(
    model: LiDiT, text: Mapping[int, LLMStates], weights: Mapping[int, float], t: float = TIME
) -> Tensor:
    """The prediction from fixed noise.

    Args:
        weights: of branches; 1 where none is given.
    """
    options = TextOptions({i: BranchOptions(weight=w) for i, w in weights.items()})
    rows = len(next(iter(text.values())))
    shape = rows, model.config.latent.channels, SIDE, SIDE
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return model(x, torch.full((rows,), t), text, options)


def distances(model: LiDiT, text: Mapping[int, LLMStates], branch: int) -> list[float]:
    """The distance from a branch that is removed, for each of `WEIGHTS`, by that at weight 1."""
    removed = step(model, text, {branch: 0.0})
    far = [float((step(model, text, {branch: w}) - removed).norm()) for w in WEIGHTS]
    return [distance / far[0] for distance in far]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmarks.branch_weight", description=__doc__)
    parser.add_argument("--model", default="stickers-duo", help="of several LLMs (stickers-duo)")
    model = parser.parse_args(arguments).model
    pipeline = load_pipeline(model, device="cpu")
    text = pipeline.encode([PROMPT])
    names = {branch: pipeline.model.config.llms[branch].name for branch in text}
    told = ", ".join(names.values())
    check(len(names) > 1, f"--model {model} reads {told} alone; expected a model of several LLMs")
    lines = [["w", *(f"{weight:g}" for weight in WEIGHTS)], ["---"] * (len(WEIGHTS) + 1)]
    for branch, name in names.items():
        found = distances(pipeline.model, text, branch)
        lines.append([name, *(f"{distance:.4f}" for distance in found)])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    sys.exit(exit_status("benchmarks.branch_weight", main))
