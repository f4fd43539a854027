"""What a plan counts of each kind of LoRA. Run: pytest tests/train/plan/test_lora_plan.py"""

from __future__ import annotations

import pytest
import torch

from lidit_core.model.dit import LiDiT
from lidit_core.model.presets import find_preset
from lidit_train.plan.hardware import DEVICES
from lidit_train.recipe import LORA_KINDS, Compute, Data, Lora, Model, Recipe, Source, Stage
from lidit_train.tasks.lidit.plan.plan import Plan, make_plan
from lidit_train.tasks.lidit.plan.text import plan_text

ADDED = {  # by kind: what of rank 4 learns beside a layer
    "lora": lambda m: 4 * (m.in_features + m.out_features),
    "dora": lambda m: 4 * (m.in_features + m.out_features) + m.in_features,
    "loha": lambda m: 8 * (m.in_features + m.out_features),
    "oft": lambda m: m.out_features * 4,
}
LAYERS = [
    module
    for module in LiDiT(find_preset("stickers"), device="meta").blocks.modules()
    if isinstance(module, torch.nn.Linear)
]


def plan_of(kind: str, **changes) -> Plan:
    recipe = Recipe(
        Data((Source("stickers", "en", count=1000, distinct=400),)),
        (Stage(1000, 64),),
        Model(preset="stickers"),
        trains="lora",
        lora=Lora(rank=4, layers=("blocks",), kind=kind),
        **changes,
    )
    return make_plan(recipe, find_preset("stickers"), device=DEVICES["H100"])


@pytest.mark.parametrize("kind", ADDED)
def test_a_lora_adds_its_numbers_to_a_frozen_model(kind):
    plan = plan_of(kind)
    weights, numbers = plan.weights, sum(map(ADDED[kind], LAYERS))
    assert weights.trained == weights.lora == numbers
    assert weights.frozen == weights.total
    assert weights.matrices == 0  # Muon takes none
    assert plan.checkpoint == 4 * 4 * numbers
    told = "rank 4" if kind == "lora" else f"rank 4, {kind}"
    assert told in plan_text(plan)


def test_matrices_that_a_change_is_made_of_are_held_one_layer_at_a_time():
    largest = 4 * max(m.in_features * m.out_features for m in LAYERS)
    for kind, matrices in {"lora": 0, "dora": 3, "loha": 4, "oft": 0}.items():
        parts = {part.name: part.bytes for part in plan_of(kind).memory.parts}
        assert parts.get("a layer's change, while it is made", 0) == matrices * largest


def test_what_is_made_of_weights_is_made_once_for_each_micro_batch():
    assert {*ADDED} == {*LORA_KINDS}
    for kind in LORA_KINDS:
        once, four = (plan_of(kind, compute=Compute(micro_batch=n)) for n in (0, 16))
        once, four = once.stages[0].flops, four.stages[0].flops
        assert (four > once) == (kind != "lora"), kind
