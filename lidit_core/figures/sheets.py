"""A picture, (H, W, 3) uint8, of each figure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .drawing import Chart, Curve, HeatMap, chart, heat_map, plain, stacked
from .refiners import Gate, RefinerAttention, StateSimilarity
from .words import Seen

COLUMNS = 6  # of words
LABEL = 14  # pixels above a cell
DARK = 0.15  # of a picture where a word is not looked at


def words_sheet(seen: Seen) -> Tensor:
    """The picture and one cell a word, COLUMNS a row."""
    cells = [("", seen.picture), *((w.word, lit(seen.picture, w.map)) for w in seen.words)]
    high, wide = seen.picture.shape[:2]
    rows = -(-len(cells) // COLUMNS)
    whole = Image.new("RGB", (wide * min(len(cells), COLUMNS), (high + LABEL) * rows), "white")
    draw = ImageDraw.Draw(whole)
    for n, (word, cell) in enumerate(cells):
        x, y = n % COLUMNS * wide, n // COLUMNS * (high + LABEL)
        draw.text((x + 2, y + 1), plain(word), fill="black")
        whole.paste(Image.fromarray(cell.numpy()), (x, y + LABEL))
    return torch.from_numpy(np.array(whole))


def lit(picture: Tensor, share: Tensor) -> Tensor:
    """The picture (H, W, 3), bright where a map (rows, columns) is large."""
    share = (share / share.max().clamp(min=1e-9))[None, None]
    light = F.interpolate(share, picture.shape[:2], mode="bilinear")[0, 0, :, :, None]
    return (picture * (DARK + (1 - DARK) * light)).round().byte()


def attention_sheet(found: Sequence[RefinerAttention]) -> Tensor:
    """Two heat maps an LLM: rows look at columns, colours are square roots of shares."""
    return stacked([
        [
            heat_map(HeatMap(f"{of.llm}: {_masked(of, kind)}", values, of.tokens, root=True))
            for kind, values in (("full", of.full), ("causal", of.causal))
        ]
        for of in found
    ])  # fmt: skip


def _masked(of: RefinerAttention, kind: str) -> str:
    return f"{kind} attention" + (" (this model's)" if kind == of.trained else "")


def similarity_sheet(found: Sequence[StateSimilarity]) -> Tensor:
    """Two heat maps an LLM: cosines of its states, and of the refined tokens."""
    return stacked([
        [
            heat_map(HeatMap(f"{of.llm}: {what}", values, of.tokens))
            for what, values in (("states", of.states), ("refined", of.refined))
        ]
        for of in found
    ])  # fmt: skip


def gates_sheet(found: Sequence[Gate]) -> Tensor:
    """A chart an LLM."""
    return stacked([[chart(_chart(llm, list(gates)))] for llm, gates in groupby(found, _llm)])


def _llm(gate: Gate) -> str:
    return gate.llm


def _chart(llm: str, gates: Sequence[Gate]) -> Chart:
    curves = [Curve(gate.name, gate.times, gate.size) for gate in gates]
    return Chart(f"{llm}: mean size of each gate", curves, "time: 1 = noise, 0 = the picture")
