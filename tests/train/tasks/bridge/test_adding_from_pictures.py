"""Bridges that add to a checkpoint's own encoder learn from pictures.

Run: pytest tests/train/tasks/bridge/test_adding_from_pictures.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny_adapter_training import LATENT, SHAPE, write_demo_checkpoint
from tiny_bridge import bridge_recipe, make_bridge_world, make_demo_recording, prompts, students_of
from tiny_llm import smollm2_without_weights
from tiny_training import curve, pictures
from tiny_unet import TINY

from lidit_core.bridge.encode import OwnEntry, added
from lidit_core.bridge.file import load_bridge
from lidit_core.bridge.layout import RowMaker, TokenLayout
from lidit_core.bridge.recorded import RecordedPrompts
from lidit_core.cli import main
from lidit_core.demo.checkpoint import TEXT_PREFIX, read_text_encoder
from lidit_core.diffusion.objectives import noised
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_train.loop.validating.held_out_loss import LOSS
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run, clear_caches, train
from lidit_train.tasks.adapter import target as targets
from lidit_train.tasks.adapter.clip_tokenizer import clip_tokenizer
from lidit_train.tasks.adapter.unet import predicted
from lidit_train.tasks.bridge.batches import ReadPrompts
from lidit_train.tasks.bridge.start import fit_base, new_bridge

pytest.importorskip("diffusers")
from one_file import random_clip, random_vae, write_one_file  # noqa: E402

from lidit_train.tasks.adapter.base_text import read_base_text  # noqa: E402

ROOT = Path(__file__).resolve().parents[4]
RECIPE = ROOT / "recipes" / "bridge-add.yaml"
RECORDED = "picture 3 of a cat"  # a caption that the recording holds too


def caption(n: int) -> str:
    return f"picture {n} of {'a cat' if n % 2 else 'two dogs'}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures, a tiny demo checkpoint and a recording of its encoder, a bag of five words."""
    folder = tmp_path_factory.mktemp("world")
    pictures(folder / "pictures")
    (folder / "pictures" / "01.txt").write_text("!")  # of which a bag of words reads nothing
    make_bridge_world(folder)
    base = write_demo_checkpoint(folder / "base.safetensors")
    make_demo_recording(folder / "bag", base, [*prompts(), RECORDED])
    return folder


def smallest(folder: Path) -> list[str]:
    """What makes the recipe that ships small: 8 steps of batch 4 at 32 pixels."""
    made = {
        "bridge.llms": f"[{folder / 'student'}]",
        "bridge.add": folder / "bag",
        "bridge.through.base": folder / "base.safetensors",
        **{"bridge.width": 32, "bridge.heads": 2, "bridge.blocks": 1, "bridge.refiner_blocks": 1},
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


def measured(out: Path) -> dict[int, float]:
    return {line["step"]: line[LOSS] for line in curve(out) if LOSS in line}


def test_a_new_one_adds_nothing_and_is_what_a_run_from_recordings_begins_with(world):
    run = begun(world, "new")
    path = run.write(world / "new" / "untrained.safetensors")
    loaded, encoder = load_bridge(path), read_text_encoder(world / "base.safetensors")
    for text in ("a red cat", "picture 7 of a cat", "a dog, " * 90, "!", ""):
        entry = encoder.read([text]), {"kept": 7}
        found = added(loaded, text, students_of(world, text), OwnEntry(entry, entry))
        assert torch.equal(found[0], entry[0]) and found[1] == entry[1]
    recorded = RecordedPrompts.open(str(world / "bag"))
    assert torch.equal(loaded.empty[0], recorded.empty[0])
    config = loaded.bridge.config
    learnt = ReadPrompts(config, recorded, {}, *recorded.split(0.05, 0))
    made = new_bridge(learnt)
    fit_base(made.base, learnt)
    for name, expected in made.base.state_dict().items():
        assert torch.equal(loaded.bridge.base.state_dict()[name], expected), name
    assert torch.equal(loaded.bridge.resampler.queries.seeds, recorded.teacher.seeds)
    assert json.loads(loaded.stages) == [
        {"from": "pictures", "steps": 8, "through": "base", "prediction": "v"}
    ]


def test_what_pictures_teach_is_added_to_the_checkpoints_own_encoder(world):
    """The loss falls below that of the checkpoint alone, at step 0, and pictures are drawn."""
    drawn = "validation.prompts=[a cat, {text: two dogs, negative: a cat}]"
    out = world / "whole"
    final = train(shipped(world, drawn, "validation.steps=2", "stages.0.images=64"), out, "cpu")
    losses = measured(out)
    assert list(losses) == [0, 4, 8, 12, 16]
    assert sorted(losses.values(), reverse=True) == list(losses.values())
    run = begun(world, "alone", "stages.0.images=64")
    ours, alone = first_losses(run)
    assert ours == pytest.approx(alone, rel=1e-4)
    loaded, encoder = load_bridge(final), read_text_encoder(world / "base.safetensors")
    for text in ("picture 7 of a cat", "!", ""):
        entry = encoder.read([text]), {}
        found = added(loaded, text, students_of(world, text), OwnEntry(entry, entry))
        assert torch.equal(found[0], entry[0]) == (text in ("!", ""))
    grids = sorted(path.name for path in (out / "grids").iterdir())
    assert grids[0] == "0000000.png" and len(grids) == 5
    assert (out / "grids" / grids[0]).read_bytes() != (out / "grids" / grids[-1]).read_bytes()


def first_losses(run) -> tuple[float, float]:
    """The loss of a held-out batch of a run that has not begun, and that of the base alone."""
    loader, learner = run.trainer.loader, run.trainer.learner
    held_out = run.task.held_out(run.ready, loader, Accelerator(cpu=True)).held_out
    batch, encoder = loader.complete(held_out.read(0)), read_text_encoder(run.task.unet.base)
    noisy = noised(learner.prediction, batch.x, batch.noise, batch.time)
    with torch.no_grad():
        said = predicted(learner.unet, noisy.z, noisy.timestep, encoder.read(batch.captions))
        ours = learner(batch)[1].mean()
    return ours.item(), (said - noisy.target).square().mean().item()


def test_the_loss_is_the_unets_under_what_the_nodes_would_make_of_each_caption(world):
    """Caption by caption, of a bridge that has learnt; the recorded ones from the recording."""
    changes = "stages.0.batch=9", "stages.0.images=36", "cache.states=false"
    run = begun(world, "each", *changes)
    learner, (_, batch) = run.trainer.learner, next(iter(run.trainer.loader))
    with torch.no_grad():
        learner.bridge.resampler.out.weight.normal_(0, 0.3)
    loaded = replace(run.task.begun, bridge=learner.bridge)
    assert "!" in batch.captions and RECORDED in run.task.own.places
    _, errors = learner(batch)
    noisy = noised(learner.prediction, batch.x, batch.noise, batch.time)
    encoder = read_text_encoder(world / "base.safetensors")
    for n, text in enumerate(batch.captions):
        entry = encoder.read([text]), {}
        sequence, _ = added(loaded, text, students_of(world, text), OwnEntry(entry, entry))
        with torch.no_grad():
            z, t = noisy.z[n : n + 1], noisy.timestep[n : n + 1]
            said = predicted(learner.unet, z, t, sequence)
        expected = (said - noisy.target[n : n + 1]).square().mean()
        torch.testing.assert_close(errors[n], expected, rtol=1e-2, atol=1e-4)  # bf16 recorded


def test_what_the_recording_lacks_is_computed_once_and_tidied_up(world, monkeypatch):
    kept = world / "kept"
    changes = f"cache.folder={kept}", "validation.prompts=[a green cat]"
    begun(world, "first", *changes)
    files = sorted(kept.glob("own/*/*.safetensors"))
    texts = {*map(caption, range(12)), "a green cat"} - {RECORDED, caption(1)}  # which is "!"
    assert len(files) == len(texts)
    stamps = [path.stat().st_mtime_ns for path in files]
    module = "lidit_train.tasks.bridge.pairs.own_text.read_base_text"
    with monkeypatch.context() as nothing:
        nothing.setattr(module, None)
        begun(world, "again", *changes)
    assert [path.stat().st_mtime_ns for path in files] == stamps
    clear_caches(shipped(world, changes[0]), world / "again", "cpu")
    assert len(list(kept.glob("own/*/*.safetensors"))) == len(texts) - 1
    every = make_demo_recording(
        world / "every", world / "base.safetensors", [*prompts(), *map(caption, range(12))]
    )
    with monkeypatch.context() as nothing:
        nothing.setattr(module, None)
        begun(world, "all", f"bridge.add={every}", f"cache.folder={world / 'other'}")
    assert not list((world / "other").glob("own/*/*"))


@pytest.mark.long
def test_a_run_that_was_killed_ends_in_the_same_bits(world):
    def die(step: int, loss: float) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(shipped(world), world / "killed", "cpu", on_step=die)
    again = train(shipped(world), world / "killed", "cpu")
    whole = train(shipped(world), world / "straight", "cpu")
    assert curve(world / "killed") == curve(world / "straight")
    assert again.read_bytes() == whole.read_bytes()


def better_checkpoint(folder: Path) -> Path:
    """The checkpoint with another text encoder of the same words."""
    tensors, metadata = read_safetensors(folder / "base.safetensors")
    text = [name for name in tensors if name.startswith(TEXT_PREFIX)]
    torch.manual_seed(7)
    others = {name: torch.randn_like(tensors[name]) for name in text}
    path = folder / "better.safetensors"
    write_safetensors(path, {**tensors, **others}, metadata)
    return path


def test_it_goes_on_from_one_that_learnt_from_recordings(world):
    make_demo_recording(world / "better", better_checkpoint(world), [*prompts(), RECORDED])
    data = {"sources": [{"kind": "recording", "path": str(world / "better")}]}
    own = {"add": str(world / "bag")}
    first = train(bridge_recipe(world, data=data, bridge=own), world / "stage-1", "cpu")
    changes = [c for c in smallest(world) if not c.startswith("bridge.") or ".add=" in c]
    changes += [f"bridge.through.base={world / 'base.safetensors'}", f"bridge.checkpoint={first}"]
    changes += [f"bridge.llms=[{world / 'student'}]"]
    final = load_bridge(train(read_recipe(RECIPE, changes), world / "stage-3", "cpu"))
    assert [stage["from"] for stage in json.loads(final.stages)] == ["a recording", "pictures"]
    known = load_bridge(first).bridge.state_dict()
    found = final.bridge.state_dict()
    assert not torch.equal(found["resampler.out.weight"], known["resampler.out.weight"])
    assert torch.equal(found["base.mean"], known["base.mean"])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_clips_of_a_checkpoint_read_rows_chunk_by_chunk(tmp_path, monkeypatch, family):
    """As hosts do: each chunk by itself, the pooled vector that of the first."""
    both = family == "sdxl"
    shape = replace(TINY["sdxl"] if both else SHAPE, in_channels=4, out_channels=4)
    clips = random_clip(64), random_clip(64, pooled=16) if both else None
    path = write_one_file(tmp_path / "one.safetensors", shape, random_vae(), *clips)
    text, core = read_base_text(path, both), clip_tokenizer().backend_tokenizer
    layout = TokenLayout(start=(49406,), end=(49407,), window=77, pad=49407, word=8)
    rows = RowMaker(layout, core)
    for prompt in ("a photo of a cat", ""):
        sequence, pooled = text.read_rows(prompt, rows(prompt))
        context, theirs = text.read([prompt])
        torch.testing.assert_close(sequence, context)
        assert pooled.shape == (1, 16 if both else 64)
        if both:
            torch.testing.assert_close(pooled, theirs)
    long = "a small red bird " * 40
    sequence, pooled = text.read_rows(long, rows(long))
    assert sequence.shape[1] == len(rows(long).ids) == 3 * 77
    first, of_first = text.read([long])  # which is cut after its first chunk
    torch.testing.assert_close(sequence[:, :77], first)
    if both:
        torch.testing.assert_close(pooled, of_first)
    with pytest.raises(LiDiTError, match="reads chunks of 77 of 49408 tokens"):
        text.read_rows("", rows("")[:12])


def test_a_plan_tells_what_is_added_to(world):
    run = begun(world, "counted")
    told = run.task.plan(world)
    assert "Bridge that adds to bag-of-words: from captioned pictures" in told
    assert "captions that the recording lacks, by bag-of-words" in told and "fits" in told


def test_a_plan_needs_neither_recording_nor_checkpoint(tmp_path, monkeypatch, capsys):
    """`lidit train --print-plan recipes/bridge-add.yaml` where nothing is made yet."""
    smollm2_without_weights(tmp_path / "cache")
    monkeypatch.setattr("lidit_train.plan.hardware.measured_speed", lambda seconds: 1e11)
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--print-plan", str(RECIPE)]) == 0
    told = capsys.readouterr().out
    assert "recordings/sdxl is not there yet; assumed is a recording of SDXLClipModel" in told
    assert "Bridge that adds to SDXLClipModel" in told and " fits\n" in told


MISTAKES = [
    (["bridge.add=''"], "it has no bridge.checkpoint"),
    (["bridge.add=nowhere"], "no recording"),
    (["bridge.add={folder}/recording"], "and windowed writes 20 and 6"),
    (["bridge.residual=mlp"], "and has residual='mlp'"),
    (["bridge.through=null"], "it has no bridge.through"),
    (["validation.modes=[add]"], "reads all of its LLMs and has no modes"),
    (["validation.branches=[0]"], "reads all of its LLMs and has no modes"),
]


@pytest.mark.parametrize(("changes", "sentence"), MISTAKES)
def test_mistakes_are_told_before_anything_is_loaded(world, monkeypatch, changes, sentence):
    monkeypatch.setattr("lidit_core.llm.loading.load_llm", None)
    with pytest.raises(LiDiTError) as told:
        made = shipped(world, *(change.replace("{folder}", str(world)) for change in changes))
        train(made, world / "mistaken", "cpu")
    assert sentence in str(told.value)
    assert "\n" not in str(told.value) and not (world / "mistaken").exists()


def test_captions_that_nobody_can_read_are_told_before_an_llm_reads(world, monkeypatch):
    """The checkpoint has another encoder than was recorded, or none."""
    monkeypatch.setattr("lidit_core.llm.loading.load_llm", None)
    other = better_checkpoint(world)
    cases = {other: "is not the bag-of-words that was recorded"}
    bare = world / "bare"
    if not bare.exists():
        from tiny_unet import random_unet

        shape = replace(SHAPE, in_channels=16, out_channels=16)
        random_unet(shape).save_pretrained(bare / "unet")
        monkeypatch.setitem(targets.LATENTS, shape.family, LATENT)
        monkeypatch.setitem(targets.NATIVE, shape.family, 64)
    cases[bare] = "holds no text_encoder folder to read them"
    for base, sentence in cases.items():
        shutil.rmtree(world / "fresh", ignore_errors=True)
        changes = f"bridge.through.base={base}", f"cache.folder={world / 'fresh'}"
        with pytest.raises(LiDiTError, match=sentence) as told:
            begun(world, "unread", *changes)
        assert "lacks 10 captions, as 'picture" in str(told.value)
        assert "and name that recording as bridge.add" in str(told.value)
