"""Token routing in training. Run: pytest tests/train/tasks/test_routing.py"""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
import torch
from processes import together
from tiny_adapter_training import adapter_fields
from tiny_lidit import random_lidit, random_noise, random_texts
from tiny_training import curve, fields, make_world, recipe_of, run, write_recipe

from lidit_core.errors import LiDiTError
from lidit_train.batch import Batch
from lidit_train.data.sample_draws import kept_tokens
from lidit_train.data.token_guess import TextTokens
from lidit_train.plan.workload import SampleTokens as Load
from lidit_train.recipe import Routing
from lidit_train.recipe_file import read_recipe
from lidit_train.run import train
from lidit_train.tasks.lidit.learner import LiDiTLearner
from lidit_train.tasks.lidit.plan.cost import model_cost
from lidit_train.tasks.task import open_task

STAGES = [{"images": 12, "batch": 4, "resolution": 256}]  # 256 image tokens
ON = {"first": 0, "last": 0}
CHANGES = {"stages": STAGES, "routing": ON, "checkpoints": {"every": 1}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve pictures of a caption each, a tiny LLM, and where it is."""
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def batch(kept: list[list[int]]) -> Batch:
    """Two samples of 4 x 4 image tokens."""
    x, noise = random_noise(2, 8, 8), torch.randn(2, 16, 8, 8)
    time = torch.tensor([0.2, 0.8])
    return Batch(x, noise, time, random_texts(1, 6, 4), kept=torch.tensor(kept))


class Sizes:
    """How many tokens each block of a model reads."""

    def __init__(self, learner: LiDiTLearner) -> None:
        self.read: list[int] = []
        for block in learner.blocks():
            block.register_forward_pre_hook(lambda _, args: self.read.append(args[0].shape[1]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tokens_go_around_the_blocks_and_come_back_as_they_were(checkpointing):
    torch.manual_seed(0)
    model = random_lidit(1, depth=4)
    learner = LiDiTLearner(model, checkpointing=checkpointing, routing=Routing(0.5, 1, 2))
    lesson, seen = batch([[0, 3, 5], [1, 2, 15]]), Sizes(learner)
    learner(lesson)[0].backward()
    assert seen.read[:4] == [16, 3, 3, 16]
    assert all(p.grad is not None for p in model.blocks.parameters())
    outputs: dict[int, torch.Tensor] = {}
    for index in (0, 3):
        model.blocks[index].register_forward_hook(lambda _, a, y, i=index: outputs.update({i: y}))
    entered: list[torch.Tensor] = []
    model.blocks[3].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    learner(lesson)
    for row, kept in enumerate(lesson.kept.tolist()):
        away = [i for i in range(16) if i not in kept]
        assert torch.equal(entered[0][row, away], outputs[0][row, away])
        assert not (entered[0][row, kept] == outputs[0][row, kept]).all(dim=-1).any()


def test_with_every_token_kept_the_loss_is_as_without():
    torch.manual_seed(0)
    model, lesson = random_lidit(1, depth=4), batch([list(range(16))] * 2)
    routed = LiDiTLearner(model, routing=Routing(0.5, 1, 2))(lesson)[0]
    assert torch.equal(routed, LiDiTLearner(model)(lesson)[0])


def test_what_is_drawn_or_measured_has_all_tokens():
    torch.manual_seed(0)
    learner = LiDiTLearner(random_lidit(1, depth=4), routing=Routing(0.5, 1, 2))
    seen = Sizes(learner)
    with torch.no_grad():
        learner(batch([[0, 3, 5], [1, 2, 15]]))
    assert seen.read == [16] * 4


def test_chance_comes_from_seed_step_and_row_alone():
    def drawn(*of: int) -> list[int]:
        return kept_tokens(*of, 256, 128).tolist()

    first = drawn(0, 5, 1)
    assert first == drawn(0, 5, 1) == sorted(set(first)) and len(first) == 128
    assert len({tuple(drawn(*of)) for of in ((0, 5, 1), (1, 5, 1), (0, 6, 1), (0, 5, 2))}) == 4
    often = torch.zeros(256)
    for step in range(200):
        often[drawn(0, step, 0)] += 1
    assert often.min() > 60 and often.max() < 140


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"compute": {"checkpointing": True, "micro_batch": 2}}])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(world, changes):
    folder, llms = world
    name = "-".join(["routed", *map(str, changes)])
    expected = run(folder, name, llms, **CHANGES, **changes)
    recipe = recipe_of(folder, *llms, **CHANGES, **changes)

    def stop(step: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder / f"{name}-parted", "cpu", llms, stop)
    found = run(folder, f"{name}-parted", llms, **CHANGES, **changes)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert curve(folder / name) == curve(folder / f"{name}-parted")


def test_it_changes_the_loss_and_checkpointing_does_not(world):
    folder, llms = world
    run(folder, "without", llms, stages=STAGES)
    run(folder, "with", llms, **CHANGES)
    run(folder, "again", llms, **CHANGES, compute={"checkpointing": True, "micro_batch": 1})
    without, with_, again = (curve(folder / name) for name in ("without", "with", "again"))
    assert with_[-1]["loss"] != without[-1]["loss"]  # gates are zero before the second step
    assert all(abs(a["loss"] / b["loss"] - 1) < 1e-4 for a, b in zip(with_, again))


@pytest.mark.long
def test_two_processes_reach_the_losses_of_one(world):
    folder, llms = world
    run(folder, "one", llms, **CHANGES)
    recipe = write_recipe(folder, fields(folder, *llms, **CHANGES), "two.yaml")
    (llm,) = (f"{k}={v}" for k, v in llms.items())
    words = [sys.executable, "-m", "lidit_core", "train", str(recipe), "--out", str(folder / "two")]
    together(*[[*words, "--device", "cpu", "--llm", llm]] * 2)
    ours, theirs = curve(folder / "two"), curve(folder / "one")
    assert len(ours) == 3
    assert all(abs(a["loss"] / b["loss"] - 1) < 1e-4 for a, b in zip(ours, theirs))


def test_compiled_blocks_give_the_same_loss():
    torch.manual_seed(0)
    model, lesson = random_lidit(1, depth=3), batch([[0, 3, 5], [1, 2, 15]])
    learner = LiDiTLearner(model, routing=Routing(0.5, 1, 1))
    plain = learner(lesson)[0].item()
    for block in learner.blocks():
        block.compile(backend="aot_eager")  # the tracing, without a compiler of machine code
    compiled = learner(lesson)[0]
    compiled.backward()
    assert compiled.item() == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stages": [{"images": 4, "batch": 4, "resolution": 240}]}, "240 pixels has 225.*256 or"),
        ({"routing": {}}, "first=2 to last=-5, and the model has 2"),
        ({"routing": {"first": 1, "last": 0}}, "expected some of 0 to 1"),
        ({"routing": {"first": 0, "last": 2}}, "the model has 2"),
        ({"content": {"block": 0}, "routing": {"first": 0, "last": 1}}, "change content.block"),
    ],
)
def test_what_does_not_fit_is_refused(world, changes, told):
    data = fields(world[0], **{**CHANGES, **changes})
    if "routing" in changes:
        data["routing"] = changes["routing"]
    recipe = read_recipe(write_recipe(world[0], data))
    with pytest.raises(LiDiTError, match=told) as refused:
        open_task(recipe)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_none_or_all_is_refused(share):
    with pytest.raises(LiDiTError, match="above 0 and below 1"):
        Routing(share)


def test_an_adapter_refuses_it(tmp_path):
    data = adapter_fields(tmp_path, routing={})
    with pytest.raises(LiDiTError, match="routing, .*U-Net has none such; leave it out"):
        open_task(read_recipe(write_recipe(tmp_path, data)))


def test_the_plan_counts_fewer_operations(world):
    def seconds(**changes) -> float:
        task = open_task(recipe_of(world[0], stages=STAGES, **changes))
        found = re.search(r"([\d.,]+) ([GMT])FLOP", task.plan(world[0]))
        assert found, "the plan tells a picture's operations"
        return float(found[1].replace(",", "")) * {"M": 1e6, "G": 1e9, "T": 1e12}[found[2]]

    assert seconds(routing=ON) < 0.9 * seconds()


def test_half_the_tokens_cost_less_than_half_of_the_blocks():
    config = replace(random_lidit(1, depth=4).config, width=64)
    load = Load(256, {0: TextTokens(8, 6)})
    whole = model_cost(config, load)
    routed = model_cost(config, load, routing=Routing(0.5, 1, 2))
    two = whole.passed[-1].forward + whole.passed[-2].forward
    saved = whole.whole.forward - routed.whole.forward
    assert 0.45 * two < saved < 0.8 * two
