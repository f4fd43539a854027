"""What can be trained, from what, on which pictures.

Run: pytest tests/train/loop/test_training_kinds.py
"""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from PIL import Image
from tiny_training import curve, fields, make_world, pictures, recipe_of, run, spec, write_recipe

from lidit_core.checkpoints.lidit import load_lidit, read_config, read_lidit
from lidit_core.checkpoints.lora import load_with_loras, read_lora
from lidit_core.checkpoints.lora_styles import PREFIX
from lidit_core.checkpoints.refiner import branch_places
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors
from lidit_core.pipeline import Order, Settings, load_pipeline
from lidit_train.recipe import LORA_KINDS
from lidit_train.recipe_file import read_recipe
from lidit_train.run import train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures, two LLMs and a LI-DiT that was trained with the first."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder, "one", "two")
    run(folder, "base", {"one": llms["one"]})
    return folder, llms


def going_on(folder, **changes) -> dict:
    """A recipe that begins with the base's weights."""
    base = str(folder / "base" / "final.safetensors")
    return fields(folder, "one", model={"preset": "", "checkpoint": base, "changes": {}}, **changes)


def test_what_is_trained_draws(world):
    folder, llms = world
    path = folder / "base" / "final.safetensors"
    pipeline = load_pipeline(str(path), [f"one={llms['one']}"], "cpu")
    (picture,) = pipeline.pictures([Order("a cat", 0)], Settings(steps=2))
    assert picture.shape == (32, 32, 3)
    latent = read_config(path).latent
    assert len(latent.rgb_factors) == 16, "previews are fitted at the end of a run"


def test_refiners_alone_move_a_model_to_another_llm(world):
    folder, llms = world
    data = going_on(folder, trains="refiners")
    data["model"]["changes"] = {"llms": [spec("two")]}
    out = train(read_recipe(write_recipe(folder, data)), folder / "moved", "cpu", llms)
    config, after = read_lidit(out)
    _, before = read_lidit(folder / "base" / "final.safetensors")
    assert [llm.name for llm in config.llms] == ["two"]
    places = tuple(branch_places(0).values())
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert same >= {key for key in before if not key.startswith(places)}
    assert not any(key.startswith(places) and key.endswith("weight") for key in same)
    state = next((folder / "moved" / "checkpoints").iterdir())
    assert (state / "numbers.json").is_file()


def test_a_fresh_branch_is_added_beside_one_that_stays(world):
    folder, llms = world
    data = going_on(folder, trains="refiners")
    data["model"]["changes"] = {"llms": [spec("one"), spec("two")]}
    out = train(read_recipe(write_recipe(folder, data)), folder / "added", "cpu", llms)
    _, after = read_lidit(out)
    _, before = read_lidit(folder / "base" / "final.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert set(after) - set(before) >= {"text_side.linguistic.1.entry.weight"}


@pytest.mark.parametrize("kind", LORA_KINDS)
def test_a_lora_is_a_file_of_its_own_that_changes_the_base(world, kind):
    """And a run that was stopped goes on to the same bits."""
    folder, llms = world
    checkpoints = {"every": 2}
    data = going_on(folder, trains="lora", lora={"rank": 4, "kind": kind}, checkpoints=checkpoints)
    recipe = read_recipe(write_recipe(folder, data))
    out = train(recipe, folder / f"lora-{kind}", "cpu", llms)

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder / f"parted-{kind}", "cpu", llms, stop)
    assert train(recipe, folder / f"parted-{kind}", "cpu", llms).read_bytes() == out.read_bytes()
    base = folder / "base" / "final.safetensors"
    before, after = load_lidit(base).state_dict(), load_with_loras(base, [(out, 1.0)]).state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all(key.startswith(("blocks", "text_side")) for key in changed)
    lora = read_lora(out)
    assert lora.about["rank"] == 4
    lengths = {part["dora"].dtype for part in lora.layers.values() if "dora" in part}
    assert lengths == ({torch.float32} if kind == "dora" else set())


@pytest.mark.parametrize(("names", "begin"), [("kohya", "lora_unet_blocks_0_"), ("peft", PREFIX)])
def test_a_lora_is_written_with_the_names_that_are_asked_for(world, names, begin):
    folder, llms = world
    base = folder / "base" / "final.safetensors"
    found = []
    for asked in ("", names):
        data = going_on(folder, trains="lora", lora={"rank": 4, "names": asked})
        recipe = read_recipe(write_recipe(folder, data))
        out = train(recipe, folder / f"lora-{names}-{asked}", "cpu", llms)
        found.append((out, load_with_loras(base, [(out, 1.0)]).state_dict()))
    tensors, _ = read_safetensors(found[1][0])
    assert any(key.startswith(begin) for key in tensors)
    assert all(".default." in key or key.endswith("alpha") for key in tensors) == (names == "peft")
    assert all(torch.equal(found[0][1][key], found[1][1][key]) for key in found[0][1])


def test_a_model_is_not_stretched_over_weights_of_another_size(world):
    folder, llms = world
    data = going_on(folder)
    data["model"]["changes"] = {"depth": 3}
    with pytest.raises(LiDiTError, match="changes depth of the checkpoint"):
        train(read_recipe(write_recipe(folder, data)), folder / "stretched", "cpu", llms)


def test_stages_go_from_small_to_large_and_keep_shapes_apart(world):
    folder, llms = world
    llms = {"one": llms["one"]}
    mixed = shutil.copytree(folder / "pictures", folder / "mixed")
    pictures(folder / "wide", count=6, size=(96, 48))
    for n, file in enumerate(sorted((folder / "wide").iterdir())):
        shutil.copy(file, mixed / f"wide{n // 2}{file.suffix}")
    stages = [{"images": 16, "batch": 4, "resolution": r} for r in (32, 64)]
    source = [{"kind": "folder", "path": str(mixed)}]
    run(folder, "stages", llms, stages=stages, data={"sources": source})
    assert len(curve(folder / "stages")) == 8
    assert read_config(folder / "stages" / "final.safetensors").native_size == 64


def test_each_stage_learns_at_the_times_of_its_focus(world):
    folder, llms = world
    stage = {"images": 16, "batch": 4, "resolution": 32}
    focus = {"low": 0.6, "high": 0.9, "share": 1.0}
    often = {"log": {"every": 4, "trackers": []}, "checkpoints": {"every": 4}}
    run(folder, "focus", {"one": llms["one"]}, stages=[stage, {**stage, "focus": focus}], **often)
    before, after = ({n for n in line if "-" in n} for line in curve(folder / "focus"))
    ranges = {"loss 0.6-0.7", "loss 0.7-0.8", "loss 0.8-0.9"}
    assert after and after <= ranges and not before <= ranges


def test_a_shift_at_two_sizes_is_taken_for_each_stage_at_its_own(world):
    folder, llms = world
    one = {"one": llms["one"]}
    often = {"log": {"every": 1, "trackers": []}, "checkpoints": {"every": 4}}
    model = {"depth": 2, "width": 32, "heads": 2, "llms": [spec("one")]}
    at = [{"size": 32, "shift": 2.0}, {"size": 64, "shift": 8.0}]
    stages = [{"images": 8, "batch": 4, "resolution": r} for r in (32, 64)]
    by_size = {"preset": "stickers", "changes": {**model, "shifts": at}}
    run(folder, "by-size", one, model=by_size, stages=stages, **often)
    by_hand = [{**stage, "shift": shift} for stage, shift in zip(stages, (2.0, 8.0))]
    run(folder, "by-hand", one, stages=by_hand, **often)
    assert curve(folder / "by-size") == curve(folder / "by-hand")
    own = {"preset": "stickers", "changes": {**model, "shift": 2.0}}
    run(folder, "one-shift", one, model=own, stages=stages, **often)
    assert curve(folder / "one-shift")[:2] == curve(folder / "by-size")[:2]
    assert curve(folder / "one-shift")[2:] != curve(folder / "by-size")[2:]
    assert len(read_config(folder / "by-size" / "final.safetensors").shifts) == 2


def break_pictures(folder, names) -> None:
    """Cut files in the middle of their pixels: the header stays whole."""
    for name in names:
        path = folder / f"{name}.png"
        path.write_bytes(path.read_bytes()[:700])
        assert Image.open(path).size == (48, 48)


def test_a_picture_that_cannot_be_decoded_is_replaced_and_told(world, caplog):
    folder, llms = world
    llms = {"one": llms["one"]}
    broken = shutil.copytree(folder / "pictures", folder / "broken")
    break_pictures(broken, ("03", "07"))
    source = {"sources": [{"kind": "folder", "path": str(broken)}]}
    with caplog.at_level(logging.WARNING):
        run(folder, "broken-cached", llms, data=source)
    told = "2 cannot be decoded, and the next is taken instead (03.png, 07.png)"
    assert told in caplog.text
    run(folder, "broken-read", llms, data=source, cache={"latents": False})
    a, b = curve(folder / "broken-cached"), curve(folder / "broken-read")
    assert all(abs(x["loss"] / y["loss"] - 1) < 1e-4 for x, y in zip(a, b))


def test_a_run_without_one_good_picture_ends_with_a_sentence(world):
    folder, llms = world
    llms = {"one": llms["one"]}
    ruined = shutil.copytree(folder / "pictures", folder / "ruined")
    break_pictures(ruined, [f"{n:02}" for n in range(12)])
    with pytest.raises(LiDiTError, match="none of the 12 pictures.*can be decoded"):
        run(folder, "ruined-run", llms, data={"sources": [{"kind": "folder", "path": str(ruined)}]})


def test_a_long_caption_is_cut_to_the_budget(world):
    folder, llms = world
    llms = {"one": llms["one"]}
    long = shutil.copytree(folder / "pictures", folder / "long")
    (long / "00.txt").write_text("a cat and a dog " * 6250)
    run(folder, "long-run", llms, data={"sources": [{"kind": "folder", "path": str(long)}]})
    assert len(curve(folder / "long-run")) == 8


def test_given_states_need_no_llm(world):
    folder, llms = world
    one = {"one": llms["one"]}
    straight = run(folder, "with-llm", one)
    given = {"dtype": "float32", "given": str(folder / "with-llm" / "cache" / "states")}
    recipe = recipe_of(folder, "one", cache=given)
    _, without = read_lidit(train(recipe, folder / "without-llm", "cpu", {"one": "/no/such/llm"}))
    assert all(torch.equal(straight[k], without[k]) for k in straight)
    (folder / "pictures" / "new.txt").write_text("a caption that nobody has read")
    Image.new("RGB", (48, 48)).save(folder / "pictures" / "new.png")
    try:
        with pytest.raises(LiDiTError, match="lack 1 captions, the first 'a caption that nobody"):
            train(recipe, folder / "without-llm-2", "cpu", {})
    finally:
        for name in ("new.txt", "new.png"):
            (folder / "pictures" / name).unlink()


def test_a_changed_llm_or_template_meets_no_old_states(world):
    folder, llms = world
    shared = {"folder": str(folder / "shared-cache")}
    run(folder, "first", {"one": llms["one"]}, cache=shared)
    kept = set((folder / "shared-cache" / "states").rglob("*.safetensors"))
    run(folder, "again", {"one": llms["one"]}, cache=shared)
    assert set((folder / "shared-cache" / "states").rglob("*.safetensors")) == kept
    run(folder, "other", {"one": llms["two"]}, cache=shared)
    after = set((folder / "shared-cache" / "states").rglob("*.safetensors"))
    assert len(after) == 2 * len(kept) and after > kept


def test_a_resumed_run_keeps_the_latents_statistics_that_it_began_with(world):
    folder, llms = world
    llms = {"one": llms["one"]}
    data = fields(folder, "one")
    data["model"]["measure_latents"] = True
    recipe = read_recipe(write_recipe(folder, data))
    train(recipe, folder / "measured", "cpu", llms)
    first = read_config(folder / "measured" / "final.safetensors").latent
    assert len(first.mean) == 16
    data["data"]["sources"][0]["path"] = str(pictures(folder / "others", 3))
    data["stages"][0]["images"] = 48
    train(read_recipe(write_recipe(folder, data)), folder / "measured", "cpu", llms)
    again = read_config(folder / "measured" / "final.safetensors").latent
    assert (again.mean, again.std) == (first.mean, first.std)


def test_a_recipe_that_has_changed_is_told(world, caplog):
    folder, llms = world
    llms = {"one": llms["one"]}
    run(folder, "changing", llms)
    with caplog.at_level(logging.WARNING):
        run(folder, "changing", llms, optimiser={"learning_rate": 5e-3})
    assert "optimiser.learning_rate was 0.01, is 0.005" in caplog.text
    kept = json.loads((folder / "changing" / "recipe.json").read_text())
    assert kept["optimiser"]["learning_rate"] == 5e-3
