"""A bridge that adds what pictures teach to a checkpoint's own CLIP. Run: see conftest.py

Trained where LIDIT_TRAINING_PYTHON is a Python with the trainer's libraries.
"""

from __future__ import annotations

import os
import subprocess

import pytest
import torch
import yaml
from bridge_encoders import (
    PROMPTS,
    SIZES,
    check_same,
    entries_of,
    host_encoder,
    record,
)
from bridge_files import Bench
from bridge_models import drawn
from conftest import ROOT
from PIL import Image
from test_trained_bridge import PYTHON, student
from tiny_bridge import recording_fields

from lidit_core.bridge.teacher import read_teacher

TRAIN = """
import sys
from pathlib import Path
from accelerate import Accelerator
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run, train
recipe, out = read_recipe(sys.argv[1]), Path(sys.argv[2])
begin_run(recipe, out, Accelerator(cpu=True)).write(out / "untrained.safetensors")
train(recipe, out, "cpu")
"""


def of_transformers(clip, kind: str):
    """The text encoders of a CLIP of the host as the trainer reads those of a checkpoint."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from lidit_train.tasks.adapter.base_text import CLIPText
    from lidit_train.tasks.adapter.clip_file import Encoder
    from lidit_train.tasks.adapter.clip_tokenizer import clip_tokenizer

    found = []
    parts = (("clip_l", CLIPTextModel), ("clip_g", CLIPTextModelWithProjection))
    for number, (name, model) in enumerate(parts[: 1 + (kind == "sdxl")]):
        act = "gelu" if number else "quick_gelu"
        ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
        made = model(CLIPTextConfig(vocab_size=49408, hidden_act=act, **ends, **SIZES[name]))
        own = getattr(clip.cond_stage_model, name).transformer.state_dict()
        nested = any(key.startswith("text_model.") for key in made.state_dict())
        named = {k if nested else k.removeprefix("text_model."): v for k, v in own.items()}
        lacking = made.load_state_dict(named, strict=False).missing_keys
        assert all(key.endswith("position_ids") for key in lacking)
        padding = {"padding": 0} if number else {}
        found.append(Encoder(clip_tokenizer(), made.eval(), **padding))
    return CLIPText(found)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_the_trainer_reads_captions_as_the_hosts_clip_does(pack, host, kind):
    """The rows of any prompt, of several chunks too, and the pooled vector."""
    own = host_encoder(kind)
    rows = read_teacher(record(pack, host, own, f"read-{kind}", ["a cat", "a dog"])).rows
    text = of_transformers(own, kind)
    for prompt in PROMPTS:
        ((sequence, values),) = entries_of(own, prompt)
        with torch.no_grad():
            ours, pooled = text.read_rows(prompt, rows(prompt))
        assert ours.shape == sequence.shape
        assert torch.allclose(ours, sequence, atol=1e-3), prompt
        assert torch.allclose(pooled, values["pooled_output"], atol=1e-3), prompt


@pytest.mark.skipif(not PYTHON, reason="needs LIDIT_TRAINING_PYTHON: a Python that trains")
def test_what_pictures_teach_is_added_in_the_host(pack, host, tmp_path):
    """Untrained it is the checkpoint's own conditioning bit for bit, trained it is not."""
    bench, (model, own, _) = Bench(pack, host), pack.run("LLMDiffDemoCheckpoint")
    prompts = [f"{n} red cats left of two dogs" for n in range(24)]
    folder, llm = record(pack, host, own, "to-add-demo", prompts), student(bench, tmp_path)
    (tmp_path / "pictures").mkdir()
    for n in range(8):
        Image.new("RGB", (64, 64), (30 * n, 20, 90)).save(tmp_path / "pictures" / f"{n}.png")
        (tmp_path / "pictures" / f"{n}.txt").write_text(f"{n} owls")
    recipe = recording_fields(tmp_path) | {"stages": [{"images": 16, "batch": 4}]}
    recipe["data"] = {"sources": [{"kind": "folder", "path": str(tmp_path / "pictures")}]}
    recipe["bridge"] |= {"add": str(folder), "through": {"base": "stickers-sd"}}
    recipe["bridge"].pop("held_out")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [PYTHON, "-c", TRAIN, tmp_path / "recipe.yaml", tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    clips = {}
    for name in ("untrained", "final"):
        (bench.folder / f"{name}.safetensors").write_bytes(
            (tmp_path / "run" / f"{name}.safetensors").read_bytes()
        )
        bridge = bench.load(f"{name}.safetensors")
        clips[name] = bench.clip(bridge, llm, encoder=own, model=model)
    for text in (*PROMPTS, "a (red:1.3) owl"):
        check_same(entries_of(clips["untrained"], text), entries_of(own, text))
    for text in (PROMPTS[0], "3 owls"):
        before, after = (entries_of(c, text)[0][0] for c in (own, clips["final"]))
        assert before.shape == after.shape and not torch.equal(before, after)
    check_same(entries_of(clips["final"], ""), entries_of(own, ""))
    pictures = {
        name: drawn(host, model, entries_of(clip, "3 owls"), entries_of(clip, ""))
        for name, clip in {**clips, "own": own}.items()
    }
    assert torch.equal(pictures["untrained"], pictures["own"])
    assert pictures["final"].isfinite().all()
    assert not torch.equal(pictures["final"], pictures["own"])
