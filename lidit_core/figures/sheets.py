"""A picture, (H, W, 3) uint8, of each figure, and lines that say its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .drawing import Chart, Curve, HeatMap, chart, heat_map, plain, stacked
from .refiners import (
    Gate,
    ReadPrompt,
    RefinerAttention,
    StateSimilarity,
    gates_over_time,
    refiner_attention,
    state_similarity,
)
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


def refiner_figure(read: ReadPrompt, figure: str, time: float) -> tuple[Tensor, Iterator[str]]:
    """A figure of the refiners, and its lines.

    Args:
        figure: refiner, gates or similarity.
        time: of the first and the last.
    """
    if figure == "gates":
        gates = gates_over_time(read)
        return gates_sheet(gates), gate_lines(gates)
    if figure == "refiner":
        attention = refiner_attention(read, time)
        return attention_sheet(attention), token_lines(attention)
    alike = state_similarity(read, time)
    return similarity_sheet(alike), token_lines(alike)


def word_lines(seen: Seen) -> Iterator[str]:
    """Every word's share of the picture's attention."""
    for word in seen.words:
        yield f"{word.map.mean():6.1%}  {word.word}  ({word.llm})"


def gate_lines(found: Sequence[Gate]) -> Iterator[str]:
    """Every gate at the first and the last time."""
    for gate in found:
        first, last = gate.size[0].item(), gate.size[-1].item()
        at = f"{first:.3f} at {gate.times[0]:g}, {last:.3f} at {gate.times[-1]:g}"
        yield f"{gate.name}: {at}  ({gate.llm})"


def token_lines(found: Sequence[RefinerAttention] | Sequence[StateSimilarity]) -> Iterator[str]:
    """The numbers of the tokens with their words, as the drawing's font lacks most scripts."""
    for of in found:
        told = (f"{n} {token}" for n, token in enumerate(of.tokens, start=1) if token)
        yield f"{of.llm}: {', '.join(told)}"
