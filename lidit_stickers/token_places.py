"""Whether a LI-DiT's image tokens know where in the picture they are.

    python -m lidit_stickers.token_places --model runs/mine/final.safetensors --times 0.98 0.9

The padded border of the position ResBlock is a LI-DiT's only absolute cue. A ridge regression from
each block's output to the token's column is fitted on two thirds of the held-out scenes and judged
on the others; its R² is 1 where tokens know their column and 0 where they know nothing. *Inner*
tokens are farther than two from every border. Left and right can be told apart where inner tokens
know their column while the picture is still noise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lidit_core.diffusion.objectives import noised
from lidit_core.diffusion.sampling import initial_noise
from lidit_core.errors import check, exit_status
from lidit_core.pipeline import Pipeline, load_pipeline

from .text_gap import (
    SEED,
    LiDiTDenoiser,
    check_times,
    held_out_scenes,
    scene_latents,
    scene_options,
)

TIMES = (0.98, 0.9)
EDGE = 3  # the outermost rows and columns, which are not inner
RIDGE = 1.0


@dataclass(frozen=True)
class KnownColumns:
    """R² of the columns of tokens behind one block at one time."""

    time: float  # in (0, 1], 1 is noise
    block: int
    everywhere: float
    inner: float


@torch.no_grad()
def block_outputs(pipeline: Pipeline, count: int, time: float) -> list[Tensor]:
    """Each block's output (scenes, tokens, width), normalised as the next block's input is."""
    captions, scenes = zip(*held_out_scenes(count))
    model, prediction = pipeline.model, pipeline.model.config.prediction
    x = scene_latents(LiDiTDenoiser(pipeline), scenes)
    noise = initial_noise([SEED + n for n in range(count)], *x.shape[1:]).to(x)
    t = torch.full((count,), time, device=x.device)
    made = noised(prediction, x, noise, t)
    found: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda block, given, out: found.append(out.float().cpu()))
        for block in model.blocks
    ]
    try:
        model(made.z.to(model.dtype), made.timestep, pipeline.encode(captions, set()))
    finally:
        for hook in hooks:
            hook.remove()
    return [F.layer_norm(out, out.shape[-1:]) for out in found]


def explained(features: Tensor, places: Tensor, fitted: int) -> float:
    """R² of places (scenes, tokens) from features (scenes, tokens, D), fitted on the first ones."""
    features = F.pad(features.double(), (0, 1), value=1.0)  # and a constant
    known, asked = features[:fitted].flatten(0, 1), features[fitted:].flatten(0, 1)
    y, wanted = places[:fitted].flatten().double(), places[fitted:].flatten().double()
    normal = known.T @ known + RIDGE * torch.eye(known.shape[1], dtype=torch.double)
    predicted = asked @ torch.linalg.solve(normal, known.T @ y)
    return float(1 - (predicted - wanted).square().mean() / wanted.var(correction=0))


def known_columns(
    pipeline: Pipeline, count: int, times: Sequence[float] = TIMES
) -> list[KnownColumns]:
    """What each block's tokens know at each time.

    Raises:
        LiDiTError: fewer than three scenes, a time outside (0, 1], or pictures too small to have
            inner tokens.
    """
    check_times(times)
    check(count >= 3, f"{count} scenes were asked for; expected --count 3 or more")
    config = pipeline.model.config
    side = config.native_size // (config.patch * config.latent.downsampling)
    check(side > 2 * EDGE, f"a picture has {side} tokens a side; expected {2 * EDGE + 1} or more")
    columns = torch.arange(side).expand(count, side, side)
    inner = torch.zeros(side, side, dtype=torch.bool)
    inner[EDGE:-EDGE, EDGE:-EDGE] = True
    all_columns, inside, fitted = columns.flatten(1), inner.flatten(), 2 * count // 3
    return [
        KnownColumns(
            time,
            block,
            explained(out, all_columns, fitted),
            explained(out[:, inside], all_columns[:, inside], fitted),
        )
        for time in times
        for block, out in enumerate(block_outputs(pipeline, count, time))
    ]


def table(rows: Sequence[KnownColumns]) -> str:
    """A line a block and time."""
    lines = ["t      block  R² everywhere  inner tokens"]
    lines += [f"{r.time:<5g}  {r.block:<5}  {r.everywhere:<13.3f}  {r.inner:.3f}" for r in rows]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    options = scene_options(__doc__, 96, TIMES).parse_args(words)
    pipeline = load_pipeline(options.model, options.llm)
    print(table(known_columns(pipeline, options.count, options.times)))


if __name__ == "__main__":
    sys.exit(exit_status("token_places", main))
