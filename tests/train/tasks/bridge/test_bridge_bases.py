"""What a bridge is added to, in training. Run: pytest tests/train/tasks/bridge/test_bridge_bases.py

Ridge, one for each of several encoders, or what the checkpoint's own encoder wrote.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bridge import (
    Following,
    Windowed,
    bridge_recipe,
    make_bridge_world,
    prompts,
    spec,
    students_of,
)
from tiny_training import curve

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.encode import OwnEntry, added, conditioning
from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.recorded import RecordedPrompts
from lidit_core.bridge.teacher import write_teacher
from lidit_core.errors import LiDiTError
from lidit_core.io.recording import record
from lidit_train.recipe import BridgeOptions
from lidit_train.run import train
from lidit_train.tasks.bridge.input import resumed_config


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_bridge_world(folder)
    return folder


def run(folder: Path, out: str, **changes) -> Path:
    return train(bridge_recipe(folder, **changes), folder / out, "cpu")


def report_of(path: Path) -> dict:
    return json.loads(load_bridge(path).report)


def recorded(folder: Path, name: str, teacher, texts=()) -> None:
    record(teacher, list(texts) or prompts(), folder / name)
    write_teacher(folder / name, teacher.teacher)


def test_an_encoder_is_added_to(world):
    """A better one is learnt: what the weak one wrote is the base, and what is added helps."""
    stages, weak = [{"images": 480, "batch": 8}], str(world / "weak")
    made = {"bridge": {"add": weak}, "checkpoints": {"every": 100}}
    final = run(world, "added", stages=stages, **made)
    told = report_of(final)
    assert set(told) == {"bridge", "encoder"}
    assert told["bridge"]["cosine"] > told["encoder"]["cosine"] + 0.02
    assert told["bridge"]["r2"] > told["encoder"]["r2"]
    lines = curve(world / "added")
    assert sum(r["loss"] for r in lines[-5:]) < 0.9 * sum(r["loss"] for r in lines[:5])
    loaded, own = load_bridge(final), Windowed(reads=0.0)
    assert loaded.bridge.config.add
    for prompt in ("a red cat", "three apples and two dogs " * 4, ""):
        ((sequence, values),) = own(prompt)
        entry = sequence, values
        found = added(loaded, prompt, students_of(world, prompt or " "), OwnEntry(entry, entry))
        assert torch.equal(found[0], sequence) == (not prompt)
        assert torch.equal(found[0][0, 0], sequence[0, 0])  # which varies with no prompt
        assert found[1]["guidance"] == 1.5 and set(found[1]) == set(values)


def test_encoders_that_follow_on_one_another_are_each_learnt(world):
    """By a ridge of its own; a shared one could not, as they differ in scale and sign."""
    teacher = Following()
    recorded(world, "following", teacher)
    sources = {"sources": [{"kind": "recording", "path": str(world / "following")}]}
    final = load_bridge(run(world, "both-parts", data=sources))
    alone = report_of(run(world, "one-part"))
    told = json.loads(final.report)
    assert told["ridge"]["cosine"] > alone["ridge"]["cosine"] - 0.1
    assert told["bridge"]["prompts"] == 6 and final.bridge.base.fixed.sum() == 2
    assert torch.equal(conditioning(final, "", [])[0], final.empty[0])
    sequence = conditioning(final, "a red cat", students_of(world, "a red cat"))[0][0].float()
    expected, rows = teacher("a red cat")[0][0][0], teacher.rows("a red cat")
    for part in (0, 1):
        ours, theirs = (x[rows.parts == part] for x in (sequence, expected))
        assert (ours - theirs).norm() < 0.9 * theirs.norm()


class Joined(Windowed):
    """Two encoders side by side in a row, filled up with zeros, and in the pooled vector, as SD3's.

    The first is a thousandth as large as the second.
    """

    WIDTH = 20

    def __init__(self) -> None:
        super().__init__()
        taps = {"width": 3 * self.WIDTH, "taps": (self.WIDTH,) * 2, "pooled": 12}
        spec = replace(self.teacher.spec, **taps, pooled_taps=(6, 6))
        self.teacher, self.second = replace(self.teacher, spec=spec), Windowed(seed=9)

    def __call__(self, text: str):
        (own, values), (other, others) = super().__call__(text)[0], self.second(text)[0]
        pooled = [1e-3 * values["pooled_output"], others["pooled_output"]]
        parts = [1e-3 * own, other, torch.zeros_like(own)]
        return [(torch.cat(parts, -1), {**values, "pooled_output": torch.cat(pooled, -1)})]


def test_deviations_have_their_floor_in_each_part_of_a_row_and_of_the_pooled_vector(world):
    teacher = Joined()
    recorded(world, "joined", teacher)
    sources = {"sources": [{"kind": "recording", "path": str(world / "joined")}]}
    base = load_bridge(run(world, "joined-parts", data=sources)).bridge.base
    width = Joined.WIDTH
    seen = Windowed()  # the first by itself, a thousand times as large
    rows = torch.cat([seen(text)[0][0][0, 1:] for text in prompts()])
    pooled = torch.cat([seen(text)[0][1]["pooled_output"] for text in prompts()])
    for found, expected in (
        (base.deviation[:width], rows.std(0)),
        (base.pooled_deviation[:6], pooled.std(0)),
    ):
        assert torch.allclose(1000 * found, expected, rtol=0.2)
    assert bool((base.deviation[2 * width :] == 1).all())


def test_the_states_of_each_llm_have_a_floor_of_their_own(world):
    """Those of one that is a thousandth as large as the others would be lost beside them."""
    llms = make_bridge_world(world / "three", False, "student", "large", "small")
    weights = load_file(world / "three" / "small" / "model.safetensors")
    scaled = {k: v * 1e-3 if "embed" in k or "_proj" in k else v for k, v in weights.items()}
    save_file(scaled, world / "three" / "small" / "model.safetensors", {"format": "pt"})
    made = train(bridge_recipe(world / "three", *llms), world / "three-llms", "cpu")
    loaded = load_bridge(made).bridge
    first, _, small = loaded.base.deviation_in.split(loaded.config.state_parts)
    assert small.median() < 0.01 * first.median()


def test_another_encoder_than_a_bridge_learnt_from_is_told(world, tmp_path, caplog):
    """One of the same tokenizer and width, by its empty prompt."""
    recorded, path = RecordedPrompts.open(str(world / "recording")), tmp_path / "b.safetensors"
    teacher, (sequence, values) = recorded.teacher, recorded.empty
    config = BridgeConfig((spec(),), teacher.spec, width=32, heads=2)
    made = Bridge(config).initialise()
    others = {name: x * 1.5 for name, x in values.items() if name == "pooled_output"}
    assert others  # as of FLUX, whose pooled vector is CLIP's and whose rows are T5's
    for scale, beside in ((1.0, {}), (1.5, {}), (1.0, others)):
        caplog.clear()
        write_bridge(path, LoadedBridge(made, teacher.rows, (sequence * scale, values | beside)))
        options = BridgeOptions(checkpoint=str(path))
        assert resumed_config(options, "bf16", recorded).llms == (spec(),)
        told = f"recording is not of the text encoder that the bridge {path} learnt from"
        assert (told in caplog.text) == (scale != 1.0 or bool(beside))


MISTAKES = [
    ({"bridge": {"add": "{folder}/fewer"}}, "record the same file of prompts"),
    ({"bridge": {"add": "{folder}/wide"}}, "rows of 24, and what is learnt of"),
    ({"bridge": {"add": "{folder}/recording"}}, "there is nothing to add"),
    ({"bridge": {"add": "nowhere"}}, "no recording"),
    ({"bridge": {"add": "{folder}/weak", "residual": "mlp"}}, "and has residual='mlp'"),
]


@pytest.mark.parametrize(("changes", "sentence"), MISTAKES)
def test_what_cannot_be_added_to_is_told_before_anything_is_loaded(
    world, monkeypatch, changes, sentence
):
    for name, teacher, texts in (
        ("fewer", Windowed(reads=0.0), prompts(40)),
        ("wide", Windowed(width=24), ()),
    ):
        if not (world / name).is_dir():
            recorded(world, name, teacher, texts)
    changes = json.loads(json.dumps(changes).replace("{folder}", str(world)))
    monkeypatch.setattr("lidit_core.llm.loading.load_llm", None)
    with pytest.raises(LiDiTError, match=sentence) as told:
        run(world, "mistaken", **changes)
    assert "\n" not in str(told.value) and not (world / "mistaken").exists()
