"""Bridges learn from recordings. Run: pytest tests/train/tasks/bridge/test_bridge_training.py"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from processes import together
from tiny_bridge import (
    Windowed,
    bridge_fields,
    bridge_recipe,
    make_bridge_world,
    prompts,
    students_of,
)
from tiny_training import curve, fields, write_recipe
from torch.utils.flop_counter import FlopCounterMode

from lidit_core.bridge.encode import conditioning
from lidit_core.bridge.file import load_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.recorded import RecordedPrompts
from lidit_core.bridge.teacher import read_teacher, write_teacher
from lidit_core.cli import main
from lidit_core.cli.record import _teacher
from lidit_core.errors import LiDiTError
from lidit_core.io.conditioning import EncodedPrompts, write_encoded
from lidit_core.io.recording import open_recording, record
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_train.data.token_guess import LETTERS
from lidit_train.run import begin_run, train
from lidit_train.tasks.bridge.plan import bridge_cost, make_bridge_plan
from lidit_train.tasks.bridge.plan_text import bridge_plan_text
from lidit_train.tasks.task import open_task


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_bridge_world(folder, False, "student", "second")
    return folder


def run(folder: Path, out: str, *llms: str, **changes) -> Path:
    return train(bridge_recipe(folder, *llms, **changes), folder / out, "cpu")


def report_of(path: Path) -> dict:
    return json.loads(load_bridge(path).report)


def test_a_run_learns_and_its_file_tells_both_figures(world):
    stages = [{"images": 480, "batch": 8}]
    final = run(world, "learns", stages=stages, checkpoints={"every": 100})
    lines = curve(world / "learns")
    first, last = (sum(line["loss"] for line in part) for part in (lines[:5], lines[-5:]))
    assert last < 0.7 * first
    told = report_of(final)
    assert set(told) == {"bridge", "ridge"} and told["bridge"] != told["ridge"]
    assert all(told[name]["prompts"] == 6 and -1 <= told[name]["cosine"] <= 1 for name in told)
    assert set(lines[0]) >= {"step", "loss", "norm", "loss 0-1", "rate"}
    alone = load_bridge(world / "learns" / "ridge.safetensors")
    assert json.loads(alone.report) == {"bridge": told["ridge"]}
    assert alone.bridge.config.residual == "none"


class Killed(Exception):
    pass


@pytest.mark.long
def test_a_run_that_was_killed_ends_in_the_same_bits(world):
    whole = run(world, "whole")

    def die(step: int, loss: float) -> None:
        if step == 5:  # after the checkpoint of step 4
            raise Killed

    with pytest.raises(Killed):
        train(bridge_recipe(world), world / "killed", "cpu", on_step=die)
    assert not (world / "killed" / "final.safetensors").exists()
    again = run(world, "killed")
    assert again.read_bytes() == whole.read_bytes()
    assert curve(world / "killed") == curve(world / "whole")


def test_two_processes_reach_the_losses_of_one(world):
    path = write_recipe(world, bridge_fields(world), "shared.yaml")
    words = ["train", str(path), "--out", str(world / "shared"), "--device", "cpu"]
    together(*[[sys.executable, "-m", "lidit_core", *words]] * 2)
    run(world, "whole")  # which the test above has run
    ours, theirs = ([line["loss"] for line in curve(world / out)] for out in ("shared", "whole"))
    assert ours == pytest.approx(theirs, rel=1e-3) and len(ours) == 8


def test_the_mlp_is_trained_by_the_same_command(world):
    path = write_recipe(world, bridge_fields(world), "mlp.yaml")
    out = world / "by-command"
    words = ["train", str(path), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--set", "bridge.residual=mlp"]) == 0
    loaded = load_bridge(out / "final.safetensors")
    assert loaded.bridge.config.residual == "mlp" and set(report_of(out / "final.safetensors"))


def test_several_llms_are_read_together(world):
    final = run(world, "both", "student", "second")
    config = load_bridge(final).bridge.config
    assert [llm.name for llm in config.llms] == ["student", "second"]
    assert all(llm.longest_prompt > 1 and llm.storage == "float" for llm in config.llms)


def test_what_an_llm_itself_gives_is_found_by_ridge(world):
    """A teacher whose rows are the student's own states, number by number."""
    source, folder = world / "student", world / "itself"
    spec = LLMSpec("student", 32, template=find_template("none"))
    encoder = PromptEncoder(source, spec.template, spec.block, spec.token_budget)

    def encode(text: str):
        (row,) = encoder.encode_rows([text])
        return [(row.hidden[None], {})]

    record(encode, prompts(200), folder / "recording")
    write_teacher(folder / "recording", _teacher(spec, encoder))
    sources = {"sources": [{"kind": "recording", "path": str(folder / "recording")}]}
    stages = [{"images": 4, "batch": 4}]
    told = report_of(run(world, "copy", data=sources, stages=stages))
    assert told["ridge"]["cosine"] > 0.999 and told["ridge"]["r2"] > 0.998


def test_the_file_writes_what_the_teacher_would(world):
    loaded, teacher = load_bridge(run(world, "file")), Windowed()
    ((empty, values),) = open_recording(world / "recording").probes().prompts[0].entries
    sequence, own = conditioning(loaded, "", students_of(world, " "))
    assert torch.equal(sequence.view(torch.int16), empty.view(torch.int16))
    assert torch.equal(own["pooled_output"], values["pooled_output"])
    for prompt in ("a red cat", "three apples and two dogs " * 4):
        sequence, own = conditioning(loaded, prompt, students_of(world, prompt))
        ((expected, theirs),) = teacher(prompt)
        assert sequence.shape == expected.shape and set(own) == set(theirs)
        assert own["guidance"] == 1.5 and own["pooled_output"].shape == (1, 6)
        first = expected[0, 0].to(torch.bfloat16).float()
        assert torch.allclose(sequence[0, 0].float(), first, atol=1e-2)  # it varies with no prompt
    assert loaded.bridge.base.fixed[0] == 1 and loaded.bridge.base.fixed[1:].sum() == 0


def test_padding_weighs_as_much_as_one_row_or_nothing_under_a_mask(world, tmp_path):
    make_bridge_world(tmp_path, True)
    for folder, masked in ((world, False), (tmp_path, True)):
        begun = begin_run(bridge_recipe(folder), folder / "begun", Accelerator(cpu=True))
        learner, ready = begun.trainer.learner, begun.ready
        batch = ready.batch(ready.learnt[:6])
        weights = learner.weights(batch)
        assert torch.allclose(weights.sum(1), torch.ones(6))
        padding = (weights * (batch.rows.kinds == 2)).sum(1)
        one = weights.max(1).values
        assert torch.allclose(padding, torch.zeros(6) if masked else one)
        assert (weights[:, 0] == 0).all()  # the still row
    (sequence, values) = conditioning(
        load_bridge(run(tmp_path, "masked")), "a cat", students_of(world, "a cat")
    )
    assert (
        values["attention_mask"].tolist()
        == Windowed(True)("a cat")[0][1]["attention_mask"].tolist()
    )


def test_held_out_prompts_are_never_learnt_from(world):
    found = RecordedPrompts.open(str(world / "recording"))
    learnt, held_out = found.split(0.1, 0)
    texts = [{found.texts[n] for n in part} for part in (learnt, held_out)]
    assert not texts[0] & texts[1] and len(held_out) == 6
    assert found.split(0.1, 0) == (learnt, held_out) != found.split(0.1, 1)


def test_prompts_that_are_more_than_text_are_learnt_from_nowhere(world, tmp_path):
    """As the host's node marks them; and its exact empty prompt goes into the file."""
    shutil.copytree(world / "recording", tmp_path / "recording")
    known = read_teacher(tmp_path / "recording")
    values = {"pooled_output": torch.ones(1, 6), "guidance": 1.5}
    exact = torch.full((1, len(known.rows("").ids), 20), 1 + 2**-20), values
    write_teacher(tmp_path / "recording", replace(known, unread=(0, 3), empty=exact))
    found = RecordedPrompts.open(str(tmp_path / "recording"))
    assert not {0, 3} & {n for part in found.split(0.1, 0) for n in part}
    assert sum(map(len, found.split(0.1, 0))) == len(found.texts) - 2
    sources = {"sources": [{"kind": "recording", "path": str(tmp_path / "recording")}]}
    final = load_bridge(run(world, "marked", data=sources))
    assert torch.equal(final.empty[0], exact[0]) and final.bridge.config.llms[0].fingerprint


def test_one_prompt_of_a_recording_is_that_of_the_whole(world):
    found = open_recording(world / "recording")
    for number, prompt in enumerate(found.prompts()):
        ours = found.prompt(number)
        assert ours.text == prompt.text == found.texts()[number]
        (ours_entry,), (theirs,) = ours.entries, prompt.entries
        assert torch.equal(ours_entry[0], theirs[0])
        assert torch.equal(ours_entry[1]["pooled_output"], theirs[1]["pooled_output"])


def test_a_plan_loads_nothing_and_writes_nothing(world, tmp_path, monkeypatch, capsys):
    path = write_recipe(world, bridge_fields(world), "planned.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lidit_core.llm.loading.load_llm", None)
    assert main(["train", "--print-plan", str(path), "--set", "hardware.device=RTX 3090"]) == 0
    told = capsys.readouterr().out
    assert "Bridge to windowed: rows of 20" in told and "prompts/s" in told and "fits" in told
    assert not list(tmp_path.iterdir())


def test_a_prompt_costs_what_is_planned(world):
    """Operations of the plan against those that torch counts of a real forward pass."""
    recipe = bridge_recipe(world)
    begun = begin_run(recipe, world / "counted", Accelerator(cpu=True))
    number = begun.ready.learnt[0]
    batch = begun.ready.batch([number])
    with FlopCounterMode(display=False) as counted:
        begun.trainer.learner(batch)
    tokens = batch.states[0].roles.shape[1]
    bridge = Bridge(begun.ready.config, device="meta")
    planned = bridge_cost(bridge, batch.rows, LETTERS * tokens, False)
    assert planned.forward == pytest.approx(counted.get_total_flops(), rel=0.06)
    assert planned.backward > planned.forward and planned.saved > 0


def test_held_out_prompts_are_measured_as_often_as_is_planned(world, caplog):
    """At each checkpoint that has a file, at that before the decay, and at the end."""
    changes = {
        "stages": [{"images": 40, "batch": 4}],
        "checkpoints": {"every": 4},
        "optimiser": {"learning_rate": 1e-3, "warmup": 1, "decay": 0.5},
    }
    recipe = bridge_recipe(world, **changes)
    prompts = RecordedPrompts.open(recipe.data.sources[0].path)
    plan = make_bridge_plan(recipe, open_task(recipe).config, prompts, world)
    caplog.set_level("INFO", "lidit_train")
    run(world, "measured", **changes)
    found = re.findall(r"bridge on (\d+) held out prompts", caplog.text)
    assert found == [str(plan.held_out)] * plan.files
    passes = len(found) * plan.held_out * plan.cost.forward
    assert plan.measuring_seconds == pytest.approx(passes / (plan.cpu.share * plan.cpu.float32))
    told = rf"measuring held-out prompts .* {plan.held_out} of them on this CPU, for {plan.files} "
    assert re.search(told, bridge_plan_text(plan))
    kept = replace(recipe.checkpoints, weights="none")
    assert replace(plan, recipe=replace(recipe, checkpoints=kept)).files == 1


def _without_teacher(folder: Path) -> None:
    (folder / "recording" / "teacher.safetensors").unlink()


def _without_shard(folder: Path) -> None:
    (folder / "recording" / "00000.safetensors").unlink()


def _other_layout(folder: Path) -> None:
    teacher = Windowed().teacher
    layout = replace(teacher.spec.layout, window=20)
    write_teacher(folder / "recording", replace(teacher, spec=replace(teacher.spec, layout=layout)))


def _no_pooled(folder: Path) -> None:
    teacher = Windowed().teacher
    write_teacher(folder / "recording", replace(teacher, spec=replace(teacher.spec, pooled=0)))


def _stopped(folder: Path) -> None:
    _without_shard(folder)
    _without_teacher(folder)  # which is written when all shards are there


def _varying(folder: Path) -> None:
    found = open_recording(folder / "recording")
    probes = [
        replace(p, entries=[(s, {**v, "size": n}) for s, v in p.entries])
        for n, p in enumerate(found.probes().prompts)
    ]
    write_encoded(folder / "recording" / "probes.safetensors", EncodedPrompts(probes))


MISTAKES = [
    (_without_teacher, {}, "teacher.safetensors is missing"),
    (_without_shard, {}, "lacks 1 of its 1 files"),
    (_stopped, {}, "lacks 1 of its 1 files"),
    (_other_layout, {}, "by the layout of its teacher"),
    (_no_pooled, {}, "a pooled vector of 6 numbers; expected 0"),
    (_varying, {}, "changes with the prompt"),
    (None, {"model": {"fresh_text": True}}, "model.fresh_text, and a bridge has no model"),
    (None, {"bridge": {"llms": []}}, "no llms; expected one or more"),
    (None, {"bridge": {"width": 33}}, "a width that twice the heads divide"),
    (None, {"bridge": {"residual": "none"}}, "residual is 'none'"),
    (None, {"bridge": {"held_out": 0.9}}, "held_out=0.9; expected above 0"),
    (None, {"data": {"sources": [{"kind": "stickers", "path": "en", "count": 2, "distinct": 2}]}},
     "expected one of kind recording"),
    (None, {"data": {"sources": [{"kind": "recording", "path": "nowhere"}]}}, "no recording"),
    (None, {"trains": "all", "model": {"preset": "stickers"}}, "which is for trains: bridge"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "changes", "sentence"), MISTAKES)
def test_mistakes_are_told_before_anything_is_loaded(
    world, tmp_path, monkeypatch, damage, changes, sentence
):
    shutil.copytree(world / "recording", tmp_path / "recording")
    (tmp_path / "student").symlink_to(world / "student")
    if damage:
        damage(tmp_path)
    monkeypatch.setattr("lidit_core.llm.loading.load_llm", None)
    with pytest.raises(LiDiTError, match=sentence) as told:
        run(tmp_path, "out", **changes)
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()


def test_a_recording_is_no_source_of_pictures(world, tmp_path):
    data = fields(tmp_path)
    data["data"]["sources"] = [{"kind": "recording", "path": str(world / "recording")}]
    path = write_recipe(tmp_path, data)
    assert main(["train", str(path), "--out", str(tmp_path / "o"), "--llm", f"tiny={world}/student",
                 "--device", "cpu"]) == 2  # fmt: skip


def test_a_cache_is_cleared_of_what_no_prompt_needs(world, tmp_path, capsys):
    made = bridge_fields(world, cache={"folder": str(tmp_path / "cache")})
    path = write_recipe(tmp_path, made)
    words = ["train", str(path), "--out", str(tmp_path / "o"), "--device", "cpu"]
    assert main(words) == 0
    (known,) = {p.parent for p in [next((tmp_path / "cache" / "states").glob("*/*.safetensors"))]}
    (known / "left.safetensors").write_bytes(b"1234")
    capsys.readouterr()
    assert main([*words, "--clear-cache"]) == 0
    assert capsys.readouterr().out.startswith("1 cached files")
