"""Bridges learn from pictures. Run: pytest tests/train/tasks/bridge/test_bridge_pairs.py"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from processes import together
from tiny_adapter_training import LATENT, write_demo_checkpoint
from tiny_bridge import (
    Windowed,
    bridge_recipe,
    make_bridge_world,
    make_demo_recording,
    prompts,
)
from tiny_training import curve, pictures
from tiny_unet import TINY, random_unet
from torch.utils.flop_counter import FlopCounterMode

from lidit_core.bridge.encode import conditioning
from lidit_core.bridge.file import load_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import student_tokens
from lidit_core.bridge.teacher import write_teacher
from lidit_core.diffusion.objectives import noised
from lidit_core.errors import LiDiTError
from lidit_core.io.recording import record
from lidit_core.text.encoder import pad_states
from lidit_train.data.token_guess import LETTERS
from lidit_train.loop.validating.held_out_loss import LOSS
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run, train
from lidit_train.tasks.adapter import target as targets
from lidit_train.tasks.adapter.unet import predicted
from lidit_train.tasks.bridge.pairs.plan import make_pairs_plan
from lidit_train.tasks.bridge.plan import bridge_cost

pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[4]
RECIPE = ROOT / "recipes" / "bridge-pairs.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures, a tiny demo checkpoint, and a bridge that learnt from its encoder's recording."""
    folder = tmp_path_factory.mktemp("world")
    pictures(folder / "pictures")
    (folder / "pictures" / "01.txt").write_text("!")  # of which a bag of words reads nothing
    (folder / "pictures" / "02.txt").write_text(", ".join(prompts()[:3]))  # of several chunks
    make_bridge_world(folder, False, "student", "second")
    make_demo_recording(folder / "bag", write_demo_checkpoint(folder / "base.safetensors"))
    data = {"sources": [{"kind": "recording", "path": str(folder / "bag")}]}
    train(bridge_recipe(folder, data=data, checkpoints={"every": 100}), folder / "first", "cpu")
    return folder


def smallest(folder: Path) -> list[str]:
    """What makes the recipe that ships small: 8 steps of batch 4 at 32 pixels."""
    made = {
        "bridge.checkpoint": folder / "first" / "final.safetensors",
        "bridge.llms": f"[{folder / 'student'}]",
        "bridge.through.base": folder / "base.safetensors",
        "data.sources.0.path": folder / "pictures",
        "stages": "[{images: 32, batch: 4, resolution: 32}]",
        "optimiser.learning_rate": 0.01,
        "optimiser.warmup": 2,
        "cache.folder": folder / "cache",
        "cache.dtype": "float32",
        "compute.precision": "float32",
        "validation.every": 4,
        "validation.held_out": 0.2,
        "validation.times": 2,
        "checkpoints.every": 4,
    }
    return [f"{name}={value}" for name, value in made.items()]


def shipped(folder: Path, *changes: str):
    """The recipe that ships in its smallest form."""
    return read_recipe(RECIPE, [*smallest(folder), *changes])


def begun(folder: Path, out: str, *changes: str):
    return begin_run(shipped(folder, *changes), folder / out, Accelerator(cpu=True))


def test_the_recipe_trains_and_its_file_says_where_it_comes_from(world):
    final = train(shipped(world), world / "whole", "cpu")
    ours, before = (load_bridge(path) for path in (final, world / "first" / "final.safetensors"))
    assert json.loads(ours.stages) == [
        {"from": "a recording"},
        {"from": "pictures", "steps": 8, "through": "base", "prediction": "v"},
    ]
    assert ours.report == "" and torch.equal(ours.empty[0], before.empty[0])
    trained, known = ours.bridge.state_dict(), before.bridge.state_dict()
    changed = {name for name in known if not torch.equal(trained[name], known[name])}
    assert "resampler.out.weight" in changed
    assert not {name for name in changed if name.startswith("base.") or "out_pooled" in name}
    lines = map(json.loads, (world / "whole" / "log.jsonl").read_text().splitlines())
    measured = {line["step"]: line[LOSS] for line in lines if LOSS in line}
    assert set(measured) == {0, 4, 8} and measured[8] < measured[0]


def test_two_processes_reach_the_losses_of_one(world):
    words = ["train", str(RECIPE), "--out", str(world / "shared"), "--device", "cpu"]
    words += [word for change in smallest(world) for word in ("--set", change)]
    together(*[[sys.executable, "-m", "lidit_core", *words]] * 2)
    if not (world / "whole" / "final.safetensors").exists():  # which the test above writes
        train(shipped(world), world / "whole", "cpu")
    for ours, theirs in zip(curve(world / "shared"), curve(world / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def sdxl(folder: Path, monkeypatch) -> list[str]:
    """Changes of the recipe: a U-Net of SDXL's structure, a bridge with a pooled vector."""
    shape = replace(TINY["sdxl"], in_channels=16, out_channels=16)
    monkeypatch.setitem(targets.LATENTS, shape.family, LATENT)
    monkeypatch.setitem(targets.NATIVE, shape.family, 64)
    random_unet(shape).save_pretrained(folder / "xl" / "unet")
    teacher = Windowed(width=24, pooled=16)
    record(teacher, prompts(), folder / "pooled")
    write_teacher(folder / "pooled", teacher.teacher)
    data = {"sources": [{"kind": "recording", "path": str(folder / "pooled")}]}
    first = train(bridge_recipe(folder, data=data), folder / "xl-first", "cpu")
    return [f"bridge.checkpoint={first}", f"bridge.through.base={folder / 'xl'}"]


@pytest.mark.parametrize("family", ["demo", "sdxl"])
def test_the_loss_is_the_unets_under_what_the_bridge_writes_of_each_caption(
    world, monkeypatch, family
):
    """Caption by caption by the way on which hosts use the bridge, the empty one's as recorded."""
    changes = ["stages.0.batch=9", "stages.0.images=36"]
    changes += sdxl(world, monkeypatch) if family == "sdxl" else ["cache.states=false"]
    made = begun(world, f"of-{family}", *changes)
    task, learner, (_, batch) = made.task, made.trainer.learner, next(iter(made.trainer.loader))
    nothing = [text for text in batch.captions if task.begun.is_empty(text)]
    assert nothing == (["!"] if family == "demo" else [])  # no caption is dropped
    assert len({len(task.begun.rows(text).ids) for text in batch.captions}) > (family == "sdxl")
    loss, errors = learner(batch)
    noisy = noised(learner.prediction, batch.x, batch.noise, batch.time)
    reader = made.ready.readers[0]
    for n, text in enumerate(batch.captions):
        states = reader.read_rows([text])
        students = [student_tokens(pad_states(states), states, [len(text)])]
        sequence, values = conditioning(task.begun, text, students)
        pooled = values["pooled_output"].float() if family == "sdxl" else None
        read = noisy.z[n : n + 1], noisy.timestep[n : n + 1], sequence.float(), None, pooled
        with torch.no_grad():
            said = predicted(learner.unet, *read)
        expected = (said - noisy.target[n : n + 1]).square().mean()
        torch.testing.assert_close(errors[n], expected, rtol=1e-3, atol=1e-5)
    assert loss.item() == pytest.approx(errors.mean().item())
    loss.backward()
    last = learner.bridge.resampler.out_pooled if family == "sdxl" else learner.bridge.resampler.out
    assert last.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in learner.unet.parameters())


def test_a_picture_costs_what_is_planned(world):
    """Operations of the plan against those that torch counts of a real step."""
    made = begun(world, "counted", "compute.checkpointing=false")
    (_, batch) = next(iter(made.trainer.loader))
    with FlopCounterMode(display=False) as counted:
        loss, _ = made.trainer.learner(batch)
        loss.backward()
    task = made.task
    planned = make_pairs_plan(task.recipe, task.begun, task.spec, task.unet, world)
    bridge = Bridge(task.begun.bridge.config, device="meta")
    letters = LETTERS * batch.states[0].roles.shape[1]  # in place of what the plan assumes
    planned = replace(planned, bridge=bridge_cost(bridge, batch.rows[:1], letters, False))
    assert planned.flops(0) * len(batch) == pytest.approx(counted.get_total_flops(), rel=0.1)
    told = task.plan(world)
    assert "from captioned pictures" in told and "latents of pictures at 32 px" in told
    assert "states of captions from student" in told and "fits" in told


MISTAKES = [
    (["bridge.checkpoint=''"], "kind folder, and it has no bridge.checkpoint"),
    (["bridge.through=null"], "is of kind folder, and it has no bridge.through"),
    (["bridge.through.steps=6"], "bridge.through.steps, which is of the trajectories"),
    (["bridge.through.blocks=1"], "bridge.through.blocks, which is of the trajectories"),
    (["bridge.llms=[{folder}/second]"], "and its checkpoint {folder}/first/final.safetensors"),
    (["bridge.width=64"], "bridge.width, which the bridge of bridge.checkpoint already has"),
    (["bridge.held_out=0.2"], "pictures are held out by validation.held_out"),
    (["bridge.add={folder}/bag"], "adds to no encoder, and the recipe has bridge.add"),
    (["bridge.through.base=stickers-sd"], "reads rows of 64"),
    (["data.caption_dropout=0.2"], "the empty prompt's conditioning stays what was recorded"),
    (["validation.modes=[base]"], "reads all of its LLMs and has no modes"),
    (["stages.0.subsets=[{branches: [0]}]"], "a bridge's LLMs read every caption"),
    (["validation.held_out=0", "validation.patience=2"], "which counts measurements"),
]


@pytest.mark.parametrize(("changes", "sentence"), MISTAKES)
def test_mistakes_are_told_before_anything_is_loaded(world, monkeypatch, changes, sentence):
    monkeypatch.setattr("lidit_core.llm.loading.load_llm", None)
    with pytest.raises(LiDiTError) as told:
        made = shipped(world, *(change.replace("{folder}", str(world)) for change in changes))
        train(made, world / "mistaken", "cpu")
    assert sentence.replace("{folder}", str(world)) in str(told.value)
    assert "\n" not in str(told.value) and not (world / "mistaken").exists()
