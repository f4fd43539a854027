"""A step waits for no device and compiles as one graph in every way in which the text may be read.

Run: pytest tests/core/model/test_compiled_ways.py
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from test_compiled import BACKEND, FEW, LENGTHS, Looks, states
from tiny_lidit import lidit_config, randomise

from lidit_core.model.config import FUSIONS, GATES, MIXES, LiDiTConfig, RefinerConfig
from lidit_core.model.dit import LiDiT
from lidit_core.model.refiners import BranchOptions
from lidit_core.model.text_side import TextOptions
from lidit_core.text.states import LLMStates

TAPS = (-7, -5, -3)  # layers of the first LLM


@dataclass(frozen=True)
class Way:
    """A model's refiners, and how one call has them read."""

    refiner: Mapping[str, Any] = field(default_factory=dict)  # fields of RefinerConfig
    taps: bool = False
    emphasis: tuple[int, ...] = ()  # branches whose tokens have weights
    options: TextOptions = TextOptions()

    def config(self) -> LiDiTConfig:
        config = lidit_config("alpha", "beta", refiner=RefinerConfig(**self.refiner))
        first, second = config.llms
        first = replace(first, block=TAPS) if self.taps else first
        return replace(config, llms=(first, second))

    def text(self, lengths: tuple[int, ...]) -> dict[int, LLMStates]:
        """Of some prompts, the states of both LLMs."""
        widths = [spec.width * spec.taps for spec in self.config().llms]
        text = {i: states(width, lengths, i) for i, width in enumerate(widths)}
        return {i: emphasised(of) if i in self.emphasis else of for i, of in text.items()}


def emphasised(of: LLMStates) -> LLMStates:
    """With a word left out, one made weaker and one stronger."""
    weights = torch.ones(of.roles.shape)
    weights[:, 4:7] = torch.tensor([0.0, 0.6, 1.7])[: weights[:, 4:7].shape[1]]
    return replace(of, emphasis=weights)


def branches(**changes: Any) -> TextOptions:
    return TextOptions({0: BranchOptions(**changes)})


WAYS = {
    **{f"taps, {mix}": Way({"mix": mix}, taps=True) for mix in MIXES},
    **{f"{fusion}": Way({"fusion": fusion}) for fusion in FUSIONS},
    **{f"gates, {gates}": Way({"gates": gates}) for gates in GATES},
    "registers": Way({"registers": 3}),
    "registers left out": Way({"registers": 3, "registers_kept": False}),
    "no refiner": Way({"blocks": 0}),
    "emphasis": Way(emphasis=(0, 1)),
    "emphasis of one LLM": Way(emphasis=(1,)),
    "emphasis, taps and registers": Way({"mix": "routed", "registers": 2}, True, (0,)),
    "weight": Way(options=branches(weight=1.4)),
    "a branch removed": Way(options=branches(weight=0)),
    "causal, ungated, weak": Way(options=branches(full_attention=False, gated=False, strength=0.5)),
    "concatenation asked for": Way(options=TextOptions(fusion="concatenation")),
}
HARDEST = "emphasis, taps and registers"  # by the compiler of the proof; others by a fast one
ALIKE = (  # names of one way
    {"refiner", "gates, time", "emphasis left unread"},
    {"concatenation", "concatenation asked for"},
)


@pytest.fixture(params=WAYS)
def way(request) -> Way:
    return WAYS[request.param]


def arguments(way: Way, model: LiDiT, lengths: tuple[int, ...]) -> tuple:
    noise = torch.Generator().manual_seed(9)
    x = torch.randn(len(lengths), model.channels, 8, 8, generator=noise)
    return x, torch.linspace(900, 400, len(lengths)), way.text(lengths), way.options


def test_every_way_is_tried():
    """A switch of the refiners that no way sets would be one that nobody compiled."""
    tried = {name for way in WAYS.values() for name in way.refiner}
    always = {"full_attention", "gated", "entry_norm", "qk_norm", "collaborative_blocks"}
    assert tried | always == set(RefinerConfig.__dataclass_fields__)


def test_a_step_looks_at_no_tensor(way):
    model = randomise(LiDiT(way.config())).eval()
    for lengths in LENGTHS:
        given = arguments(way, model, lengths)
        with torch.no_grad(), Looks() as looks:
            model(*given)
        assert looks.seen == []


@pytest.mark.long
def test_it_compiles_as_one_graph_and_gives_equal_numbers(way):
    torch._dynamo.reset()
    model, hardest = randomise(LiDiT(way.config())).eval(), way is WAYS[HARDEST]
    backend = BACKEND if hardest else "aot_eager"
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for lengths in LENGTHS if hardest else LENGTHS[:1]:
        given = arguments(way, model, lengths)
        with torch.no_grad():
            expected, found = model(*given), compiled(*given)
        assert (found - expected).abs().max() <= FEW * expected.abs().max()


def test_each_way_gives_other_numbers():
    """A way that gave those of another would try nothing of its own."""
    drawn: dict[str, torch.Tensor] = {}
    for name, way in WAYS.items():
        model = randomise(LiDiT(way.config())).eval()
        with torch.no_grad():
            drawn[name] = model(*arguments(way, model, LENGTHS[0]))
    for one, other in itertools.combinations(WAYS, 2):
        alike = torch.equal(drawn[one], drawn[other])
        assert alike == any({one, other} <= same for same in ALIKE), (one, other)
