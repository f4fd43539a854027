"""A U-Net with a bridge is drawn with. Run: pytest tests/eval/test_bridge_drawn.py"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from tiny_adapter_training import write_demo_checkpoint
from tiny_bridge import (
    Windowed,
    bridge_recipe,
    make_bridge_world,
    make_demo_recording,
    prompts,
    students_of,
)

from lidit_core.bridge.encode import OwnEntry, added
from lidit_core.bridge.file import load_bridge
from lidit_core.bridge.teacher import write_teacher
from lidit_core.cli import main
from lidit_core.cli.record import of_demo
from lidit_core.demo.checkpoint import TEXT_PREFIX, read_text_encoder
from lidit_core.diffusion.sampling import euler_steps, initial_noise
from lidit_core.diffusion.times import sampling_times
from lidit_core.errors import LiDiTError
from lidit_core.io.pictures import to_pixels
from lidit_core.io.recording import record
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.model.latents import denormalise
from lidit_eval.benchmarks.item import PromptItem
from lidit_eval.bridge_drawer import BridgeDrawer
from lidit_eval.items import DrawingTask
from lidit_train.run import train
from lidit_train.tasks.adapter.unet import predicted, read_unet

pytest.importorskip("diffusers")

NONE = dict.fromkeys(("adapter", "vae", "spread", "cache"))
WORDS = {**NONE, "lora": [], "steps": 3, "cfg": 2.0, "size": (64, 64)}
LONG = ", ".join(prompts()[:3])  # of more chunks than one


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A demo checkpoint, and a bridge that learnt a little from its encoder's recording."""
    folder = tmp_path_factory.mktemp("world")
    make_bridge_world(folder, False, "student")
    make_demo_recording(folder / "bag", write_demo_checkpoint(folder / "base.safetensors"))
    teacher = Windowed(width=16)  # whose longer prompts have more rows
    record(teacher, prompts(), folder / "chunks")
    write_teacher(folder / "chunks", teacher.teacher)
    for recorded, out in (("bag", "run"), ("chunks", "chunked")):
        data = {"sources": [{"kind": "recording", "path": str(folder / recorded)}]}
        train(bridge_recipe(folder, data=data, checkpoints={"every": 100}), folder / out, "cpu")
    encode, teacher = of_demo(folder / "base.safetensors")
    record(lambda text: [(s.flip(-1), v) for s, v in encode(text)], prompts(), folder / "other")
    write_teacher(folder / "other", teacher)
    data = {"sources": [{"kind": "recording", "path": str(folder / "other")}]}
    bridge = {"add": str(folder / "bag")}
    recipe = bridge_recipe(folder, data=data, bridge=bridge, checkpoints={"every": 100})
    train(recipe, folder / "adding", "cpu")
    return folder


def drawer(world: Path, **changes) -> BridgeDrawer:
    given = {"model": str(world / "base.safetensors"), "llm": [str(world / "student")]}
    given |= {"bridge": str(world / "run" / "final.safetensors"), **WORDS, **changes}
    return BridgeDrawer(Namespace(**given), "cpu")


def tasks(*prompts: str) -> list[DrawingTask]:
    return [DrawingTask(n, 0, PromptItem(text, "any"), seed=n) for n, text in enumerate(prompts)]


def test_the_empty_prompt_is_the_checkpoints_own(world):
    """Whose conditioning the recording keeps bit for bit."""
    made = drawer(world)
    (ours,) = made.draw(tasks(""))
    unet = read_unet(world / "base.safetensors", "v")
    with torch.no_grad():
        context = read_text_encoder(world / "base.safetensors").read([""])
        latent = made.target.latent
        side = 64 // latent.downsampling
        latents = euler_steps(
            lambda z, t: predicted(unet.unet, z, t, context),
            initial_noise([0], latent.channels, side, side),
            unet.prediction,
            sampling_times(unet.prediction, 3, shift=1.0),
        )
        (own,) = to_pixels(made.vae.decode(denormalise(latents, latent)))
    assert (ours.int() - own.int()).abs().max() <= 1  # guided from itself to itself


def test_prompts_drawn_together_are_those_drawn_alone(world):
    """Of other lengths too, of which one takes more rows."""
    made = drawer(world, bridge=str(world / "chunked" / "final.safetensors"))
    texts = ("a red cat", LONG, "two dogs")
    together = list(made.draw(tasks(*texts)))
    for task, picture in zip(tasks(*texts), together):
        (alone,) = made.draw([task])
        assert (picture.int() - alone.int()).abs().max() <= 1
    assert len({len(made.loaded.rows(text).ids) for text in texts}) == 2
    assert not torch.equal(*list(made.draw([tasks("a red cat")[0], tasks("two dogs")[0]])))


def test_a_bridge_that_adds_is_drawn_with_beside_the_checkpoints_encoder(world):
    """Its rows are those of `added`; the empty prompt is the encoder's own."""
    path = world / "adding" / "final.safetensors"
    made, alone = drawer(world, bridge=str(path)), drawer(world)
    bridge, encoder = load_bridge(path), read_text_encoder(world / "base.safetensors")
    text = prompts()[0]
    with torch.no_grad():
        own = encoder.read([text]), {}
        rows = added(bridge, text, students_of(world, text), OwnEntry(own, own))[0]
        assert not torch.allclose(rows, own[0], atol=1e-3)
        empty, seen = encoder.read([""]), []
        made._say = lambda z, t, entry: seen.append(entry[0]) or torch.zeros_like(z)
        list(made.draw(tasks(text)))
    assert torch.allclose(seen[0], rows, atol=1e-5) and torch.equal(seen[1], empty)
    (one,), (other,) = (each.draw(tasks("")) for each in (drawer(world, bridge=str(path)), alone))
    assert (one.int() - other.int()).abs().max() <= 1  # both are the checkpoint's own


def test_a_bridge_that_adds_to_another_encoder_is_refused(world, tmp_path):
    """As is a checkpoint that has none."""
    tensors, told = read_safetensors(world / "base.safetensors")
    moved = {k: v.flip(0) if k.startswith(TEXT_PREFIX) else v for k, v in tensors.items()}
    write_safetensors(tmp_path / "moved.safetensors", moved, told)
    given = {"bridge": str(world / "adding" / "final.safetensors")}
    with pytest.raises(LiDiTError, match="writes another empty prompt .* expected the checkpoint"):
        drawer(world, model=str(tmp_path / "moved.safetensors"), **given)


@pytest.mark.font
def test_an_evaluation_records_the_bridge(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["eval", str(world / "base.safetensors"), "--every", "1000", "--steps", "1"]
    words += ["--bridge", str(world / "run" / "final.safetensors"), "--out", "out"]
    assert main([*words, "--llm", f"student={world / 'student'}"]) == 0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["bridge"].startswith("final.safetensors (")


@pytest.mark.parametrize(
    "words, told",
    [
        (["--adapter", "stickers-adapter"], "expected one of them"),
        (["--llm", "other=nowhere"], "none of the bridge's LLMs; expected NAME=SOURCE"),
        (["--lora", "some.safetensors"], "without LoRAs"),
    ],
)
def test_a_mistake_is_one_sentence(world, tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    given = ["eval", str(world / "base.safetensors"), "--every", "1000", "--out", "out"]
    given += ["--bridge", str(world / "run" / "final.safetensors")]
    (tmp_path / "some.safetensors").write_bytes(b"")
    assert main([*given, *words]) == 2
    assert told in capsys.readouterr().err
