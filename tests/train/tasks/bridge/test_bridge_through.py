"""Bridges learn through a U-Net. Run: pytest tests/train/tasks/bridge/test_bridge_through.py"""

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
    bridge_fields,
    bridge_recipe,
    make_bridge_world,
    make_demo_recording,
    prompts,
)
from tiny_training import curve, write_recipe
from tiny_unet import TINY, random_unet
from torch.utils.flop_counter import FlopCounterMode

from lidit_core.bridge.file import load_bridge
from lidit_core.bridge.teacher import write_teacher
from lidit_core.cli import main
from lidit_core.diffusion.sampling import euler_steps
from lidit_core.diffusion.times import sampling_times
from lidit_core.errors import LiDiTError
from lidit_core.io.recording import record
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_train.loop.validating.held_out_loss import LOSS
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run, export, train
from lidit_train.tasks.adapter import target as targets
from lidit_train.tasks.adapter.base_text import DemoText
from lidit_train.tasks.bridge.plan import make_bridge_plan
from lidit_train.tasks.bridge.unet.measuring import GAP
from lidit_train.tasks.bridge.unet.through import squared

pytest.importorskip("diffusers")

ONE = [{"images": 8, "batch": 4, "resolution": 32}]
SHORT = {"steps": 3, "points": 2}
TIMES = {"times": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A recording of a tiny demo checkpoint's encoder, and a bridge that was trained from it."""
    folder = tmp_path_factory.mktemp("world")
    make_bridge_world(folder, False, "student", "second")
    make_demo_recording(folder / "bag", write_demo_checkpoint(folder / "base.safetensors"))
    stage1 = bridge_recipe(folder, data=of("bag", folder), checkpoints={"every": 100})
    train(stage1, folder / "first", "cpu")
    return folder


def of(name: str, folder: Path) -> dict:
    return {"sources": [{"kind": "recording", "path": str(folder / name)}]}


def through(folder: Path, base: Path | str = "", **changes) -> dict:
    """A recipe's data: a bridge of stage 1 goes on through a U-Net."""
    options = {"checkpoint": str(folder / "first" / "final.safetensors"), "held_out": 0.1}
    options["llms"] = [str(folder / "student")]
    options["through"] = {"base": str(base or folder / "base.safetensors"), **SHORT}
    options |= changes.pop("bridge", {})
    made = {"data": of("bag", folder), "validation": TIMES, **changes}
    return {**bridge_fields(folder, **made), "bridge": options}


def recipe(folder: Path, out: str, **changes):
    return read_recipe(write_recipe(folder, through(folder, **changes), f"{out}.yaml"))


def run(folder: Path, out: str, **changes) -> Path:
    return train(recipe(folder, out, **changes), folder / out, "cpu")


def begun(folder: Path, out: str, **changes):
    return begin_run(recipe(folder, out, **changes), folder / out, Accelerator(cpu=True))


def to_block(folder: Path, blocks: int) -> dict:
    """A bridge's options: the loss is on the hidden state after so many blocks."""
    base = str(folder / "base.safetensors")
    return {"through": {"base": base, **SHORT, "blocks": blocks}}


def notes(folder: Path) -> list[dict]:
    """The lines of what is measured."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if GAP in line]


def test_what_is_learnt_is_what_the_encoder_makes_the_sampler_say(world):
    """Points of trajectories are those of the library's sampler with the encoder's own text."""
    options = {"base": str(world / "base.safetensors"), "steps": 4, "points": 2}
    made = begun(world, "points", bridge={"through": options})
    learner, device = made.trainer.learner, torch.device("cpu")
    batch = made.task.held_out(made.ready, made.trainer.loader, Accelerator(cpu=True))._batch(
        made.ready.held_out[:3]
    )
    points, trajectories = learner.points(batch), batch.trajectories
    own = DemoText(world / "base.safetensors").encoder
    texts = [made.ready.prompts.texts[n] for n in made.ready.held_out[:3]]
    read, empty = own.read(texts).detach(), own.read([""] * 3).detach()
    passed, said = [], []

    def say(z, t):
        with torch.no_grad():
            asked, unasked = (learner.unet(z, t, c).sample for c in (read, empty))
        passed.append(z)
        said.append(asked)
        return unasked + trajectories.guidance[:, None, None, None] * (asked - unasked)

    assert torch.equal(trajectories.times[0], sampling_times("v", 4, 1.0)[:-1])
    euler_steps(say, trajectories.noise, "v", sampling_times("v", 4, 1.0))
    assert trajectories.points.tolist() == [[1, 3]] * 3  # two of four, spread evenly
    for n, step in enumerate((1, 3)):
        torch.testing.assert_close(points.z[:, n], passed[step], rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(points.wanted[:, n], said[step], rtol=2e-2, atol=2e-2)
    wrong = learner.predicted(points, learner.empty(3, device))
    right = learner.predicted(points, learner.context(batch, batch.x, None))
    assert squared(right, points).max() < 1e-3 * squared(wrong, points).mean()
    whole = learner(batch)[1]
    parts = torch.cat([learner(batch.part(rows))[1] for rows in (slice(0, 2), slice(2, 3))])
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_bridge_learns_through_the_demo_checkpoint(world, blocks):
    """What its U-Net does of a prompt's own comes nearer to what its encoder makes it do."""
    data, plain = of("shipped", world), {"every": 1000, "weights": "plain"}
    make_demo_recording(world / "shipped", SHIPPED_WEIGHTS / "stickers-sd.safetensors")
    stages = [{"images": 160, "batch": 8}]
    stage1 = bridge_recipe(world, data=data, checkpoints=plain, stages=stages)
    known = train(stage1, world / "demo1", "cpu")
    options, out = {"base": "stickers-sd", **SHORT, "blocks": blocks}, f"demo-{blocks}"
    final = run(
        world,
        out,
        bridge={"checkpoint": str(known), "through": options},
        data=data,
        stages=[{"images": 640, "batch": 8, "resolution": 32}],
        optimiser={"learning_rate": 1e-3, "warmup": 5},
        checkpoints=plain,
        validation={**TIMES, "every": 20, "at_start": True},
    )
    first, *_, last = notes(world / out)
    assert (first["step"], last["step"]) == (0, 80)
    assert 0.3 < first[GAP] < last[GAP] - 0.07 and last[LOSS] < 0.9 * first[LOSS]
    stage = json.loads(load_bridge(final).stages)[-1]
    assert (stage["from"], stage["through"], stage["steps"]) == ("shipped", "stickers-sd", 80)
    assert stage["before"][GAP] == pytest.approx(first[GAP], abs=1e-4)
    assert stage["after"][GAP] == pytest.approx(last[GAP], abs=0.02)  # in bfloat16
    bins = {name for line in curve(world / out) for name in line if name.startswith("loss ")}
    assert len(bins) > 4  # of all times


def test_only_what_the_unet_reads_of_the_bridge_learns(world):
    """Of an encoder with a pooled vector, which SD1.5's U-Net and the demo's do not read."""
    recorded = Windowed(width=16)
    record(recorded, prompts(), world / "pooled")
    write_teacher(world / "pooled", recorded.teacher)
    sizes = {"width": 32, "heads": 2, "blocks": 1, "refiner_blocks": 1, "checkpoint": ""}
    made = begun(world, "frozen", bridge=sizes, data=of("pooled", world))
    learner = made.trainer.learner
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    for _, batch in zip(range(3), made.trainer.loader):
        made.trainer.train_step(batch[1], made.trainer.no_losses())
    after = learner.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all(k.startswith("bridge.re") for k in changed)
    assert "bridge.resampler.out.weight" in changed
    assert "bridge.resampler.out_pooled.weight" in set(before) - changed


class Killed(Exception):
    pass


def test_a_run_that_was_killed_ends_in_the_same_bits(world):
    measured = {"validation": {**TIMES, "every": 8}, "checkpoints": {"every": 4, "weights": "none"}}
    whole = run(world, "whole", **measured)

    def die(step: int, loss: float) -> None:
        if step == 5:  # after the checkpoint of step 4
            raise Killed

    with pytest.raises(Killed):
        train(recipe(world, "killed", **measured), world / "killed", "cpu", on_step=die)
    again = run(world, "killed", **measured)
    assert again.read_bytes() == whole.read_bytes()
    assert curve(world / "killed") == curve(world / "whole")
    again = export(recipe(world, "killed", **measured), world / "killed", 8, "cpu")
    assert again.read_bytes() == whole.read_bytes()
    stages = json.loads(load_bridge(whole).stages)
    assert [set(stage) & {"through", "from"} for stage in stages] == [{"from"}, {"from", "through"}]


def test_two_processes_reach_the_losses_of_one(world):
    path = write_recipe(world, through(world), "shared.yaml")
    words = ["train", str(path), "--out", str(world / "shared"), "--device", "cpu"]
    together(*[[sys.executable, "-m", "lidit_core", *words]] * 2)
    run(world, "alone")
    for ours, theirs in zip(curve(world / "shared"), curve(world / "alone"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_bridge_goes_on_from_its_file_without_a_unet(world):
    """By the loss of a recording, from the weights that it had."""
    options = {"through": None}
    made = begun(world, "again", bridge=options, validation={})
    known = load_bridge(world / "first" / "final.safetensors").bridge.state_dict()
    ours = made.trainer.learner.bridge.state_dict()
    assert all(torch.equal(known[k], ours[k]) for k in known)
    told = json.loads(load_bridge(run(world, "again", bridge=options, validation={})).stages)
    assert told == [{"from": "a recording"}, {"from": "bag", "steps": 8}]


def test_sdxls_pooled_vector_is_learnt_and_what_is_added_is_added_to(world, tmp_path, monkeypatch):
    """A U-Net of SDXL's structure, prompts of several chunks, a bridge that adds to an encoder."""
    shape = replace(TINY["sdxl"], in_channels=16, out_channels=16)
    monkeypatch.setitem(targets.LATENTS, shape.family, LATENT)
    monkeypatch.setitem(targets.NATIVE, shape.family, 64)
    random_unet(shape).save_pretrained(tmp_path / "unet")
    for name, reads in (("sdxl", 1.0), ("own", 0.0)):
        teacher = Windowed(width=24, pooled=16, reads=reads)
        record(teacher, [*prompts(), " ".join(prompts()[:4])], tmp_path / name)
        write_teacher(tmp_path / name, teacher.teacher)
    sizes = {"width": 32, "heads": 2, "blocks": 1, "refiner_blocks": 1, "checkpoint": ""}
    options = {**sizes, "add": str(tmp_path / "own"), "through": {"base": str(tmp_path), **SHORT}}
    (tmp_path / "student").symlink_to(world / "student")
    made = begun(tmp_path, "xl", bridge=options, data=of("sdxl", tmp_path), stages=ONE)
    learner, first = made.trainer.learner, made.ready.learnt
    long = max(first, key=lambda n: len(made.ready.prompts.rows(n).ids))
    batch = made.task.held_out(made.ready, None, Accelerator(cpu=True))._batch([long, first[0]])
    points = learner.points(batch)
    written = learner.written(batch)
    assert written.seen is not None and not bool(written.seen.all())  # one chunk beside two
    alone = made.task.measured._batch([first[0]])
    torch.testing.assert_close(learner.points(alone).wanted[0], points.wanted[1], rtol=0, atol=1e-4)
    errors = squared(learner.predicted(points, written), points)
    errors.mean().backward()
    assert learner.bridge.resampler.out_pooled.weight.grad.abs().max() > 0
    own = batch.own.tokens.states.hidden  # an untrained one has added nothing
    torch.testing.assert_close(written.rows, own, rtol=0, atol=1e-4)


def test_a_plan_counts_the_unet_and_loads_nothing(world, tmp_path, monkeypatch, capsys):
    path = write_recipe(world, through(world), "planned.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lidit_core.llm.loading.load_llm", None)
    monkeypatch.setattr("lidit_train.tasks.bridge.unet.learner.read_unet", None)
    assert main(["train", "--print-plan", str(path), "--set", "hardware.device=RTX 3090"]) == 0
    told = capsys.readouterr().out
    assert "U-Net that it learns through" in told and "2 points of a trajectory of 3" in told
    assert "measuring held-out prompts" in told and "\n  ridge" not in told and "fits" in told


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_step_costs_what_is_planned(world, blocks):
    """Operations of the plan against those that torch counts of a real step."""
    made = begun(world, f"counted-{blocks}", bridge=to_block(world, blocks))
    task, learner = made.task, made.trainer.learner
    (_, batch) = next(iter(made.trainer.loader))
    batch.trajectories.points[:] = torch.tensor([0, 2])  # to the trajectory's end
    with FlopCounterMode(display=False) as counted:
        loss, _ = learner(batch)
        loss.backward()
    planned = make_bridge_plan(task.recipe, task.config, task.prompts, world, task.unet)
    assert planned.flops(0) * len(batch) == pytest.approx(counted.get_total_flops(), rel=0.1)
    whole, part = planned.through.passes[0], planned.through.learnt[0]
    assert (part.forward + part.backward < 0.4 * (whole.forward + whole.backward)) == bool(blocks)


@pytest.mark.parametrize("blocks", [1, 2, 3])  # the first reads text, the third is the middle
def test_a_loss_on_a_hidden_state_leaves_out_what_follows(world, blocks):
    """It is what the whole U-Net has there; later weights change no loss, and earlier ones do."""
    made = begun(world, f"hidden-{blocks}", bridge=to_block(world, blocks))
    learner, (_, batch) = made.trainer.learner, next(iter(made.trainer.loader))
    batch.trajectories.points[:] = torch.tensor([0, 1])
    points, context = learner.points(batch, blocks), learner.written(batch)
    found, unet, seen = learner.predicted(points, context, blocks), learner.unet, []
    order = [*unet.down_blocks, unet.mid_block]
    hook = order[blocks - 1].register_forward_hook(lambda *args: seen.append(args[2]))
    whole = learner.predicted(points, context)
    hook.remove()
    hidden = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.equal(found, hidden) and whole.shape[1] == 16 != found.shape[1]
    loss, errors = learner(batch)
    loss.backward()
    weight = learner.bridge.resampler.out.weight
    assert loss == errors.mean() > 0 and weight.grad.abs().max() > 0
    wanted = points.wanted.flatten(0, 1)
    relative = (found - wanted).square().mean((1, 2, 3)) / wanted.square().mean((1, 2, 3))
    torch.testing.assert_close(errors.flatten(), relative.detach(), rtol=1e-3, atol=1e-9)
    batch.trajectories.points[:] = torch.tensor([0, 0])  # before any prediction moved a latent
    before = learner(batch)[0].item()
    for part, changes in ((unet.up_blocks[0], False), (order[0], True)):
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.mul_(1.5)
        assert (learner(batch)[0].item() != before) == changes


BASE = {"base": "{folder}/base.safetensors", **SHORT}
MISTAKES = [
    ({"data": "recording"}, "and {folder}/recording holds those of windowed, 20 wide"),
    ({"bridge": {"through": {"base": "stickers-sd", **SHORT}}}, "reads rows of 64"),
    ({"bridge": {"through": {"base": "nowhere", **SHORT}}}, "nowhere"),
    ({"bridge": {"through": {"base": ""}}}, "bridge.through has no base"),
    ({"bridge": {"through": {"base": "x", "points": 30}}}, "no more points than steps"),
    ({"bridge": {"through": {"base": "x", "guidance": [7, 1]}}}, "the lower one first"),
    ({"bridge": {"through": {"base": "x", "guidance": [7]}}}, "two numbers of 1 or more"),
    ({"bridge": {"through": {"base": "x", "prediction": "flow"}}}, "'flow'"),
    ({"bridge": {"through": {**BASE, "blocks": 4}}}, "expected a number from 1 to 3, or 0 for"),
    (
        {"bridge": {"through": {**BASE, "blocks": 1}}, "loss": {"weighting": "debiased"}},
        "which weighs predictions, and bridge.through has blocks",
    ),
    ({"bridge": {"width": 64}}, "bridge.width, which the bridge of bridge.checkpoint already has"),
    ({"bridge": {"llms": ["{folder}/second"]}}, "and its checkpoint {folder}/first/final.safe"),
    ({"bridge": {"checkpoint": "nowhere"}}, "nowhere"),
    ({"bridge": {"checkpoint": "{folder}/base.safetensors"}}, "is no bridge"),
    ({"bridge": {"add": "{folder}/bag"}}, "there is nothing to add"),
    ({"stages": [{"images": 8, "batch": 4, "resolution": 33}]}, "multiples of 16 pixels"),
    ({"validation": {"times": 5}}, "no more times than steps"),
    ({"validation": {**TIMES, "patience": 2}}, "and measures every 1000 steps of 8"),
    ({"validation": {"held_out": 0.2, "every": 1}}, "prompts are held out by bridge.held_out"),
    ({"validation": {"prompts": ["a cat"]}}, "from a recording a bridge draws no pictures"),
]


@pytest.mark.parametrize(("changes", "sentence"), MISTAKES)
def test_mistakes_are_told_before_anything_is_loaded(world, monkeypatch, changes, sentence):
    changes = json.loads(json.dumps(changes).replace("{folder}", str(world)))
    if "data" in changes:
        changes["data"] = of(changes["data"], world)
    monkeypatch.setattr("lidit_core.llm.loading.load_llm", None)
    with pytest.raises(LiDiTError) as told:
        run(world, "mistaken", **changes)
    assert sentence.replace("{folder}", str(world)) in str(told.value)
    assert "\n" not in str(told.value) and not (world / "mistaken").exists()
