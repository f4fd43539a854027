"""What does not learn takes half the memory in bf16, and half of that in 8 bits.

Run: pytest tests/train/loop/test_frozen.py
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import together
from tiny_adapter_training import adapter_fields, adapter_recipe
from tiny_adapter_training import make_world as make_adapter_world
from tiny_training import LLM, curve, make_world, recipe_of, run, spec, write_recipe
from torch import Tensor, nn

from lidit_core.errors import LiDiTError
from lidit_train.loop.computing.eight_bits import (
    bytes_in_eight_bits,
    check_device,
    hold_in_eight_bits,
    to_eight_bits,
    whole,
)
from lidit_train.loop.parallel import accelerator_for
from lidit_train.plan.hardware import DEVICES, THIS_CPU
from lidit_train.recipe import LORA_KINDS
from lidit_train.recipe_file import read_recipe
from lidit_train.run import Halved, begin_run, train
from lidit_train.tasks.adapter.plan import make_adapter_plan
from lidit_train.tasks.adapter.target import adapter_target
from lidit_train.tasks.lidit.plan.plan import make_plan
from lidit_train.tasks.lidit.start import configuration
from lidit_train.tasks.lidit.trained import trained_by
from lidit_train.tasks.task import open_task

DRAWN = {"every": 4, "prompts": ["a cat"], "steps": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where a LI-DiT has been trained, its LLMs, and a world of adapters."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder)
    run(folder, "base", llms)
    pytest.importorskip("diffusers")
    return folder, llms, make_adapter_world(tmp_path_factory.mktemp("adapters"))


def recipes(world, task: str, frozen: str):
    """The recipe with this precision of what is frozen, and where its LLMs are.

    Args:
        task: what a recipe trains, or a kind of LoRA.
    """
    folder, llms, adapters = world
    changes = {"compute": {"precision": "float32", "frozen": frozen}, "validation": DRAWN}
    if task == "adapter":
        return adapter_recipe(adapters, **changes), {}
    changes["optimiser"] = {"learning_rate": 1e-3, "warmup": 2}
    if task in LORA_KINDS:
        task, changes["lora"] = "lora", {"kind": task}
    model = {"preset": "", "checkpoint": str(folder / "base" / "final.safetensors")}
    model["changes"] = {"llms": [spec(LLM)]}
    return recipe_of(folder, trains=task, model=model, **changes), llms


def frozen_bytes(world, task: str, frozen: str) -> int:
    recipe, llms = recipes(world, task, frozen)
    out = Path(world[0]) / f"held-{task}-{frozen}"
    learner = begin_run(recipe, out, accelerator_for(recipe.compute, "cpu"), llms).trainer.learner
    return sum(p.nbytes for p in learner.parameters() if not p.requires_grad)


KINDS = [pytest.param(kind, marks=pytest.mark.long) for kind in LORA_KINDS[1:]]


@pytest.mark.parametrize("task", ["adapter", LORA_KINDS[0], *KINDS, "refiners"])
def test_frozen_weights_take_half_and_it_learns_as_it_does_with_whole_ones(world, task):
    whole, half = (frozen_bytes(world, task, dtype) for dtype in ("float32", "bf16"))
    assert 0.5 <= half / whole < 0.53
    curves = []
    for dtype in ("float32", "bf16"):
        recipe, llms = recipes(world, task, dtype)
        out = world[0] / f"run-{task}-{dtype}"
        train(recipe, out, "cpu", llms)
        assert len(list((out / "grids").iterdir())) == 2
        curves.append([line["loss"] for line in curve(out)])
    assert curves[0] == pytest.approx(curves[1], rel=0.03) and curves[0] != curves[1]


KINDS = ("int8", "fp8")


IN_8_BITS = [("adapter", "int8"), *((kind, "fp8") for kind in LORA_KINDS)]


@pytest.mark.parametrize(("task", "kind"), IN_8_BITS)
def test_a_run_learns_in_8_bits_as_it_does_with_whole_weights(world, task, kind):
    curves = []
    for held in ("float32", kind):
        recipe, llms = recipes(world, task, held)
        out = world[0] / f"run-{task}-{held}"
        if not (out / "final.safetensors").exists():  # the test above has run the first
            train(recipe, out, "cpu", llms)
        assert len(list((out / "grids").iterdir())) == 2
        curves.append([line["loss"] for line in curve(out)])
    assert curves[0] == pytest.approx(curves[1], rel=0.03) and curves[0] != curves[1]


@pytest.mark.parametrize(("task", "own"), [("adapter", "adapter."), ("lora", "lora.")])
def test_what_is_frozen_is_not_copied_for_a_file(world, task, own, monkeypatch):
    class OfTheFile(Halved):
        def __getitem__(self, name: str) -> Tensor:
            assert name.startswith(own)
            return super().__getitem__(name)

    monkeypatch.setattr("lidit_train.run.Halved", OfTheFile)
    recipe, llms = recipes(world, task, "float32")
    out = world[0] / f"written-{task}"
    run = begin_run(recipe, out, accelerator_for(recipe.compute, "cpu"), llms)
    assert run.write(out / "some.safetensors").stat().st_size > 0


@pytest.mark.long
def test_two_processes_hold_the_same_8_bits(world):
    """Bytes of float8 are copied to the second process as any weight is."""
    folder, _, adapters = world
    compute = {"precision": "float32", "frozen": "fp8"}
    stages = [{"images": 4, "batch": 4, "resolution": 32}]
    data = adapter_fields(adapters, compute=compute, stages=stages)
    path = write_recipe(folder, data, "two.yaml")
    words = ["train", str(path), "--out", str(folder / "two"), "--device", "cpu"]
    together(*[[sys.executable, "-m", "lidit_core", *words]] * 2)
    train(read_recipe(path), folder / "alone", "cpu")
    losses = [curve(folder / name)[0]["loss"] for name in ("two", "alone")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)  # Langevin noise goes by shares


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_in_8_bits_is_off_by_a_rounding(kind):
    """Half a step of int8, a sixteenth of a number in float8; a row of zeros stays one."""
    torch.manual_seed(0)
    weight = torch.randn(64, 8, 3, 3) * torch.logspace(-3, 1, 64).view(-1, 1, 1, 1)
    weight[5] = 0
    stored, scale = to_eight_bits(weight, kind)
    assert stored.element_size() == 1 and scale.shape == (64,)
    error = (whole(stored, scale, torch.float32) - weight).abs()
    steps = scale.view(-1, 1, 1, 1)
    allowed = steps * 0.5 if kind == "int8" else weight.abs() / 16 + steps / 1024
    largest = weight.abs().amax((1, 2, 3), keepdim=True) / 256  # a scale is rounded to bf16
    assert bool((error <= torch.maximum(allowed, largest * 1.01)).all())
    assert not whole(stored, scale, torch.bfloat16)[5].any()
    spread = float((error / weight.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-9)).mean())
    assert spread < {"int8": 0.01, "fp8": 0.03}[kind]


def layers() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(1)
    return {
        "linear": (nn.Linear(48, 64), torch.randn(2, 5, 48)),
        "conv": (nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2), torch.randn(2, 8, 9, 7)),
        "embedding": (nn.Embedding(50, 24), torch.tensor([[3, 4, 3], [0, 49, 7]])),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["linear", "conv", "embedding"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_layer_computes_with_what_it_holds_and_keeps_nothing_larger(kind, name, mixed):
    layer, x = layers()[name]
    layer.requires_grad_(False)
    planned = bytes_in_eight_bits(layer, half=False)
    exact, plain = layers()[name]
    hold_in_eight_bits(layer, kind)
    assert sum(p.nbytes for p in layer.parameters()) == planned
    with torch.no_grad():
        exact.weight.copy_(layer.weight)
    exact.requires_grad_(False)
    kept: list[Tensor] = []
    results = []
    for module, read in ((layer, x), (exact, plain)):
        read = read.requires_grad_() if read.is_floating_point() else read
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (kept.append(t), t)[1], lambda t: t
        ):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                y = module(read)
        if module is layer:
            assert sum(t.nbytes for t in kept) <= planned
        if read.is_floating_point():
            y.float().square().sum().backward()
        results.append((y, read.grad))
    (ours, our_grad), (theirs, their_grad) = results
    exactly = {"rtol": 0, "atol": 0} if not mixed else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(ours, theirs, check_dtype=name != "embedding", **exactly)
    if our_grad is not None:
        torch.testing.assert_close(our_grad, their_grad, rtol=2e-2 if mixed else 1e-5, atol=2e-2)


def test_what_learns_or_reads_its_matrix_itself_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(8, 2), nn.Linear(4, 4))
    model.requires_grad_(False)
    model[0].bias.requires_grad_(True)
    hold_in_eight_bits(model, "int8")
    names = {type(m).__name__ for m in model.modules()}
    assert names == {
        *("Sequential", "Linear", "MultiheadAttention", "NonDynamicallyQuantizableLinear"),
        "EightBitLinear",
    }
    x = torch.randn(3, 1, 8)
    assert model[1](x, x, x)[0].shape == x.shape


@pytest.mark.parametrize("task", ["adapter", "lora"])
def test_the_plan_says_what_frozen_weights_take(world, task):
    """Compared with what they do take, on a device that computes in bf16."""
    for dtype in ("float32", "bf16", *KINDS):
        recipe, _ = recipes(world, task, dtype)
        recipe = replace(recipe, compute=replace(recipe.compute, precision="bf16"))
        device = DEVICES[THIS_CPU if dtype in KINDS else "RTX 4090"]
        if task == "adapter":
            plan = make_adapter_plan(recipe, adapter_target(recipe.adapter), ".", device)
            own = sum(p for name, p in plan.memory().items() if name == "U-Net, frozen")
            taken = frozen_bytes(world, task, dtype) - _text_bytes(world, dtype)
        else:
            config = configuration(recipe.model, recipe.stages)
            trained = trained_by(recipe.trains, recipe.lora, config)
            plan = make_plan(recipe, config, trained, device=device)
            name = "weights, float32" if dtype == "float32" else f"frozen weights, {dtype}"
            own = sum(part.bytes for part in plan.memory.parts if part.name == name)
            own -= 4 * plan.weights.lora if dtype == "float32" else 0
            taken = frozen_bytes(world, task, dtype)
        assert own == pytest.approx(taken, rel=0.04)


def _text_bytes(world, dtype: str) -> int:
    """Of the demo checkpoint's own text encoder, which the plan leaves out."""
    recipe, llms = recipes(world, "adapter", dtype)
    out = Path(world[0]) / f"held-adapter-{dtype}"
    learner = begin_run(recipe, out, accelerator_for(recipe.compute, "cpu"), llms).trainer.learner
    return sum(p.nbytes for p in learner.own.parameters())


def test_what_does_not_fit_is_refused(world):
    folder, llms, _ = world
    for kind in ("bf16", *KINDS):
        with pytest.raises(LiDiTError, match=f"shard and frozen={kind}"):
            recipe_of(folder, compute={"shard": True, "frozen": kind})
    recipe, _ = recipes(world, "refiners", "int8")
    with pytest.raises(LiDiTError, match="holds the transformer too, which would be written from"):
        open_task(recipe)
    with pytest.raises(LiDiTError, match="frozen=fp8, and mps cannot .*; set compute.frozen=int8"):
        check_device("fp8", torch.device("mps"))
    with pytest.raises(LiDiTError, match="compute.frozen, and of such a model nothing is frozen"):
        run(folder, "all", llms, compute={"frozen": "bf16"})
