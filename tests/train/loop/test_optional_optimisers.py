"""Optimisers from packages of their own: what they step, how they resume, what is averaged.

Run: pytest tests/train/loop/test_optional_optimisers.py
(with `pip install bitsandbytes prodigyopt schedulefree`; what lacks is skipped by name)
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from processes import together
from tiny_training import curve, fields, make_world, recipe_of, run, write_recipe
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from lidit_core.errors import LiDiTError
from lidit_train.loop.optimisers import average_of, optimisers_of
from lidit_train.loop.optimisers.optional import PACKAGES
from lidit_train.recipe import Optimiser
from lidit_train.run import train
from lidit_train.tasks.lidit.plan.memory import optimiser_bytes
from lidit_train.tasks.lidit.trained import Weights

SETTINGS = {
    "adamw8bit": {"learning_rate": 1e-2},
    "prodigy": {"learning_rate": 1.0},
    "schedulefree": {"learning_rate": 1e-2, "decay": 0, "ema": 0},
}
NAMES = pytest.mark.parametrize("name", SETTINGS)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures and one LLM, and where the LLM is."""
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def settings(name: str) -> dict:
    pytest.importorskip(PACKAGES[name], reason=f"needs pip install {PACKAGES[name]}")
    return {"name": name, "warmup": 2, **SETTINGS[name]}


def state_of(folder: Path) -> dict:
    """The newest checkpoint of a run."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    found: dict = {}
    _load_state_dict(
        found, storage_reader=FileSystemReader(newest), planner=_EmptyStateDictLoadPlanner(),
        no_dist=True,
    )  # fmt: skip
    return found


class Network(nn.Module):
    """Some matrices, of which one has more than the 4096 numbers from which state has 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(80, 80), nn.Linear(80, 1)])

    def loss(self) -> torch.Tensor:
        x = torch.linspace(-1, 1, 80 * 7).view(7, 80)
        wanted = x.square().mean(1, keepdim=True)
        return (self.blocks[1](self.blocks[0](x).relu()) - wanted).square().mean()


def steps(model: Network, optimiser: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        model.loss().backward()
        optimiser.step()
        optimiser.zero_grad()


def theirs(name: str, model: Network, rate: float) -> torch.optim.Optimizer:
    """The package's optimiser as its own documentation makes it, over our groups."""
    package = import_module(PACKAGES[name])
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    options = {"lr": rate, "betas": (0.9, 0.99)}
    if name == "adamw8bit":
        return package.optim.AdamW8bit(groups, **options)
    if name == "prodigy":
        return package.Prodigy(groups, **options, safeguard_warmup=True)
    made = package.AdamWScheduleFree(groups, **options)
    made.train()
    return made


@NAMES
def test_steps_are_those_of_the_package_and_learn(name):
    recipe = Optimiser(**settings(name))
    ours, other = Network(), Network()
    before = ours.loss().item()
    (optimiser,) = optimisers_of(ours, recipe)
    steps(ours, optimiser, 40)
    steps(other, theirs(name, other, recipe.learning_rate), 40)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters()))
    assert ours.loss().item() < 0.5 * before


def test_the_average_is_the_one_that_schedule_free_evaluates_with():
    recipe = Optimiser(**settings("schedulefree"))
    model = Network()
    found = optimisers_of(model, recipe)
    average = average_of(model, recipe, found)
    for _ in range(7):
        steps(model, found[0], 1)
        average.update(model)
    taken = [p.detach().clone() for p in model.parameters()]
    found[0].eval()
    wanted = dict(model.named_parameters())
    assert not torch.equal(taken[0], wanted["blocks.0.weight"])
    for key, x in average.weights.items():
        torch.testing.assert_close(x, wanted[key].detach(), rtol=0, atol=0)


def test_8_bits_hold_what_is_large():
    recipe = Optimiser(**settings("adamw8bit"))
    model = Network()
    (optimiser,) = optimisers_of(model, recipe)
    steps(model, optimiser, 1)
    kinds = {tuple(p.shape): optimiser.state[p]["state1"].dtype for p in model.parameters()}
    assert kinds[80, 80] == torch.uint8 and kinds[80,] == torch.float32


@NAMES
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(world, name):
    folder, llms = world
    options = {"optimiser": settings(name)}
    whole, parted = f"{name}-whole", f"{name}-parted"
    expected = run(folder, whole, llms, **options)

    def stop(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe_of(folder, *llms, **options), folder / parted, "cpu", llms, stop)
    found = run(folder, parted, llms, **options)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert curve(folder / parted) == curve(folder / whole)
    a, b = flat(state_of(folder / whole)), flat(state_of(folder / parted))
    assert set(a) == set(b) and len(a) > 100
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]
        assert same, key


def flat(state, place: str = "") -> dict:
    if isinstance(state, dict):
        return {k: v for key in state for k, v in flat(state[key], f"{place}{key}.").items()}
    return {place: state}


def test_the_file_holds_schedule_frees_average(world):
    folder, llms = world
    weights = run(folder, "average", llms, optimiser=settings("schedulefree"))
    state = state_of(folder / "average")
    moved = 0
    for key, y in state["learner"].items():
        held = state["optimisers"]["state"][key]
        x = torch.lerp(y, held["z"], 1 - 1 / 0.9)
        assert torch.equal(state["ema"][key], x)
        assert torch.equal(weights[key.removeprefix("model.")], x.bfloat16())
        moved += not torch.equal(x, y)
    assert moved > 10


@NAMES
def test_two_processes_reach_the_weights_of_one(world, name):
    folder, llms = world
    data = fields(folder, *llms, optimiser=settings(name))
    run(folder, f"{name}-one", llms, optimiser=settings(name))
    recipe = write_recipe(folder, data, f"{name}.yaml")
    (llm,) = (f"{k}={v}" for k, v in llms.items())
    out = folder / f"{name}-two"
    words = [sys.executable, "-m", "lidit_core", "train", str(recipe), "--out", str(out)]
    together(*[[*words, "--device", "cpu", "--llm", llm]] * 2)
    ours, theirs = curve(out), curve(folder / f"{name}-one")
    assert len(ours) == 8
    assert all(abs(a["loss"] / b["loss"] - 1) < 1e-3 for a, b in zip(ours, theirs))


@NAMES
def test_one_whose_package_lacks_is_refused_with_what_to_run(world, name, monkeypatch):
    folder, llms = world
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    recipe = recipe_of(folder, *llms, optimiser={"name": name, **SETTINGS[name]})
    with pytest.raises(LiDiTError, match=f"-m pip install {PACKAGES[name]}$"):
        train(recipe, folder / f"{name}-lacks", "cpu", llms)
    assert not (folder / f"{name}-lacks").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "prodigy"}, "set optimiser.learning_rate=1"),
        ({"name": "schedulefree"}, "decay=0.25, ema=0.998.*set optimiser.decay=0"),
        ({"name": "schedulefree", "decay": 0, "ema": 0, "betas": [0.0, 0.9]}, "above 0"),
        ({"name": "adam"}, "schedulefree"),
    ],
)
def test_settings_that_do_not_fit_are_refused(world, changes, told):
    with pytest.raises(LiDiTError, match=told):
        recipe_of(world[0], optimiser=changes)


@NAMES
def test_a_divided_model_is_refused(world, name):
    optimiser = {"name": name, **SETTINGS[name]}
    with pytest.raises(LiDiTError, match=f"compute.shard and the optimiser {name}"):
        recipe_of(world[0], optimiser=optimiser, compute={"shard": True})


def test_the_plan_tells_what_each_keeps(world):
    def kept(name: str) -> int:
        recipe = recipe_of(world[0], optimiser={"name": name, **SETTINGS.get(name, {})})
        return optimiser_bytes(recipe.optimiser, Weights(512, 512, 0, 512, 0, 0, {}))

    numbers = {name: kept(name) / 512 for name in ("adamw", *SETTINGS)}
    assert numbers == {"adamw": 8, "adamw8bit": 2 + 8 / 256, "prodigy": 16, "schedulefree": 8}
