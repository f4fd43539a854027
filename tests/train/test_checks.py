"""What a run refuses, it refuses before anything is written or computed; two runs do not meet.

Run: pytest tests/train/test_checks.py
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import ROOT, environment
from tiny_training import fields, make_world, pictures, recipe_of, run, spec, write_recipe

from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.text.encoder import LLMEncoder
from lidit_train.data.caption_states import CaptionReader
from lidit_train.data.latent_cache import LatentCache
from lidit_train.recipe_file import read_recipe
from lidit_train.run import train
from lidit_train.tasks.lidit.learner import LiDiTLearner


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures and one LLM, where the LLM is, and a run."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder)
    run(folder, "begun", llms)
    (folder / "file").write_text("no folder")
    vae = folder / "vae"
    vae.mkdir()
    (vae / "config.json").write_text(json.dumps({"latent_channels": 4}))
    (folder / "other-vae").mkdir()
    (folder / "other-vae" / "config.json").write_text(json.dumps({"latent_channels": 4}))
    (folder / "other-vae" / "some.safetensors").write_bytes(b"")
    return folder, llms


LORA = {"trains": "lora", "model": {"checkpoint": "{folder}/begun/final.safetensors"}}
REFUSED = {  # what is wrong: fields of the recipe, and a word of the sentence
    "a tracker": ({"log": {"trackers": ["mlfow"]}}, "tracker 'mlfow'"),
    "an autoencoder": ({"model": {"vae": "{folder}/no.safetensors"}}, "no.safetensors is not"),
    "an empty one": ({"model": {"vae": "{folder}/vae"}}, "holds no .safetensors"),
    "one of others": ({"model": {"vae": "{folder}/other-vae"}}, "latents of 4 channels"),
    "no autoencoder": ({"model": {"vae": "{folder}/pictures/00.png"}}, "00.png"),
    "a layer": ({**LORA, "lora": {"layers": ["bloks"]}}, "'bloks', which has no linear layer"),
    "blocks of one row": ({**LORA, "lora": {"kind": "oft", "rank": 1}}, "kind=oft and rank=1, and"),
    "a checkpoint": ({"model": {"preset": "", "checkpoint": "{folder}/no.st"}}, "no.st"),
    "other sizes": (
        {"model": {**LORA["model"], "preset": "", "changes": {"width": 64, "heads": 4}}},
        "changes width",
    ),
    "a PixArt": ({"model": {"pixart": "{folder}/no.pth"}}, "no.pth"),
    "a branch": ({"validation": {"branches": [3], "prompts": ["x"]}}, "names branch 3"),
    "a source": (
        {"data": {"sources": [{"kind": "folder", "path": "{folder}/no"}]}},
        "is not there",
    ),
    "given states": ({"cache": {"given": "{folder}/nothing"}}, "cache.given"),
    "a cache": ({"cache": {"folder": "{folder}/file"}}, "file is a file"),
    "content": ({"content": {"block": 0}}, "teaches content"),
    "shards": ({"compute": {"shard": True}}, "and this is one"),
    "an LLM": ({"cache": {"states": False}, "llm": "{folder}/no-llm"}, "no-llm"),
    "an LLM to read": ({"llm": "{folder}/no-llm"}, "no-llm"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_nothing_is_written_or_computed_before_all_is_checked(world, fault, monkeypatch):
    folder, llms = world

    def expensive(*_):
        raise AssertionError("an LLM or an autoencoder was run")

    monkeypatch.setattr(CaptionReader, "prepare", expensive)
    monkeypatch.setattr(LatentCache, "prepare", expensive)
    changes, told = json.loads(json.dumps(REFUSED[fault]).replace("{folder}", str(folder)))
    llms = {"tiny": changes.pop("llm")} if "llm" in changes else llms
    data = fields(folder, *llms, **changes)
    if data["model"].get("checkpoint") and data.get("trains") == "lora":
        data["model"] = {"checkpoint": data["model"]["checkpoint"]}
    before = {path: path.read_bytes() for path in (folder / "begun").glob("*.json")}
    for out in ("begun", "new"):
        path = write_recipe(folder, data, "refused.yaml")
        with pytest.raises(LiDiTError, match=re.escape(told)):
            train(read_recipe(path), folder / out, "cpu", llms)
    assert {path: path.read_bytes() for path in (folder / "begun").glob("*.json")} == before
    left = [path for path in (folder / "new").rglob("*") if path.is_file()]
    assert not [path for path in left if path.name != ".lock"]


def test_a_folder_that_cannot_be_written_to_is_one_sentence(world):
    folder, llms = world
    with pytest.raises(LiDiTError, match="file is a file; expected a folder"):
        train(recipe_of(folder, *llms), folder / "file" / "run", "cpu", llms)
    if Path("/proc/self").exists():  # where nobody may make a folder, and only the attempt tells
        with pytest.raises(LiDiTError, match=r"the system refused '/proc/run' \(No such file"):
            train(recipe_of(folder, *llms), Path("/proc/run"), "cpu", llms)
    if os.geteuid():  # root may write anywhere
        (folder / "locked").mkdir(mode=0o500)
        with pytest.raises(LiDiTError, match="cannot be written to"):
            train(recipe_of(folder, *llms), folder / "locked" / "run", "cpu", llms)


def test_a_recipe_that_does_not_fit_the_checkpoint_leaves_the_record(world, caplog):
    """The next start then says nothing of a change that never was."""
    folder, llms = world
    record = (folder / "begun" / "recipe.json").read_bytes()
    wide = {"preset": "stickers", "changes": {"depth": 1, "width": 64, "heads": 2}}
    wide["changes"]["llms"] = [spec(name) for name in llms]
    with pytest.raises(LiDiTError, match="does not fit"):
        run(folder, "begun", llms, model=wide)
    assert (folder / "begun" / "recipe.json").read_bytes() == record
    caplog.clear()
    run(folder, "begun", llms)
    assert "has changed" not in caplog.text


def words(folder: Path, recipe: Path, out: str, llms: dict[str, str]) -> list[str]:
    given = [part for name, place in llms.items() for part in ("--llm", f"{name}={place}")]
    return ["-m", "lidit_core", "train", str(recipe), "--out", str(folder / out), *given]


def test_a_second_run_in_the_folder_is_refused_and_a_dead_one_holds_nothing(world):
    folder, llms = world
    long = {"stages": [{"images": 4000, "batch": 4, "resolution": 32}]}
    recipe = write_recipe(folder, fields(folder, *llms, **long), "long.yaml")
    command = [sys.executable, *words(folder, recipe, "twice", llms), "--device", "cpu"]
    first = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    log = folder / "twice" / "log.jsonl"
    while first.poll() is None and not log.is_file():
        time.sleep(0.05)
    try:
        second = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert second.returncode == 2
        assert "another run is training in" in second.stderr.splitlines()[-1]
    finally:
        first.kill()
        first.wait()
    run(folder, "twice", llms, stages=[{"images": 32, "batch": 4, "resolution": 32}])


@pytest.mark.parametrize("fault", ["in all", "of the first"])
def test_two_processes_say_an_error_once(world, fault):
    folder, llms = world
    data = fields(folder, *llms)
    if fault == "in all":
        data["data"]["sources"][0]["path"] = str(folder / "no")
    recipe = write_recipe(folder, data, "wrong.yaml")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launcher, *words(folder, recipe, "two", llms), "--device", "cpu"]
    held = None
    if fault == "of the first":
        (folder / "two").mkdir(exist_ok=True)
        hold = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        hold += "print(flush=True); input()"
        held = subprocess.Popen(
            [sys.executable, "-c", hold, str(folder / "two" / ".lock")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        held.stdout.readline()
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    finally:
        if held:
            held.communicate(b"\n")
    assert done.returncode != 0
    told = "is not there" if fault == "in all" else "another run is training"
    said = [line for line in done.stderr.splitlines() if line.startswith("lidit: ")]
    assert [told in line for line in said].count(True) == 1, done.stderr
    assert done.stderr.count("training on 2 processes") == 1
    ours = str(ROOT / "lidit_train")
    assert ours not in done.stderr, "a traceback of ours"


def test_two_processes_name_a_broken_picture_once(world):
    folder, llms = world
    broken = pictures(folder / "broken")
    for name in ("03", "07"):
        path = broken / f"{name}.png"
        path.write_bytes(path.read_bytes()[:700])
    source = {"sources": [{"kind": "folder", "path": str(broken)}]}
    long = [{"images": 64, "batch": 4, "resolution": 32}]
    recipe = write_recipe(folder, fields(folder, *llms, data=source, stages=long), "broken.yaml")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launcher, *words(folder, recipe, "broken-run", llms), "--device", "cpu"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("03.png", "07.png"):
        assert done.stderr.count(name) == 1, done.stderr


@pytest.mark.parametrize("cached", [True, False])
def test_broken_pictures_are_named_once_and_before_the_first_step_where_that_is_known(
    world, caplog, cached
):
    folder, llms = world
    broken = pictures(folder / f"broken-{cached}")
    for name in ("03", "07"):
        path = broken / f"{name}.png"
        path.write_bytes(path.read_bytes()[:700])
    source = {"sources": [{"kind": "folder", "path": str(broken)}]}
    with caplog.at_level(logging.INFO, "lidit_train"):
        run(folder, f"named-{cached}", llms, data=source, cache={"latents": cached})
    told = caplog.messages
    assert "".join(told).count("03.png") == "".join(told).count("07.png") == 1
    if cached:
        (place,) = (n for n, message in enumerate(told) if "03.png" in message)
        assert place < next(n for n, message in enumerate(told) if message.startswith("step 1 of"))
        assert f"{broken}: 2 cannot be decoded" in told[place]


def test_captions_that_are_cut_are_counted_and_told(world, caplog):
    folder, llms = world
    source = {"sources": [{"kind": "folder", "path": str(pictures(folder / "long"))}]}
    for name in ("01", "02", "03"):
        (folder / "long" / f"{name}.txt").write_text(f"{name}: " + "a cat and a dog " * 50)
    for cached in (True, False):
        caplog.clear()
        run(folder, f"long-{cached}", llms, data=source, cache={"states": cached})
        (told,) = [m for m in caplog.messages if "are longer and are cut" in m]
        assert "tiny reads 24 tokens of a caption, and 3 of 12 different captions are" in told
        assert re.search(r"the longest \d{3,};", told), told
    caplog.clear()
    run(folder, "short-ones", llms)
    assert "are cut" not in caplog.text


def test_a_run_that_has_made_more_steps_than_the_recipe_has_says_so(world, caplog):
    folder, llms = world
    run(folder, "shortened", llms)
    caplog.clear()
    run(folder, "shortened", llms, stages=[{"images": 8, "batch": 4, "resolution": 32}])
    assert "has made 8 steps, and the recipe has only 2" in caplog.text
    assert "going on" not in caplog.text


def test_a_disk_that_is_full_from_the_start_promises_no_older_checkpoint(world):
    resource = pytest.importorskip("resource")  # Windows has none
    folder, llms = world
    recipe = recipe_of(folder, *llms)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, loss: float) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited[1]))

    try:
        with pytest.raises(LiDiTError, match="there is none before it") as told:
            train(recipe, folder / "full", "cpu", llms, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert not re.search(r"inline_container|enforce|\.cc|\.cpp", str(told.value)), told.value


def test_full_memory_in_training_is_one_sentence_with_what_to_set(world, monkeypatch):
    folder, llms = world
    forward = LiDiTLearner.forward

    def greedy(self, batch):
        if len(batch) > 2:
            torch.empty(1 << 60)  # more than any machine has
        return forward(self, batch)

    monkeypatch.setattr(LiDiTLearner, "forward", greedy)
    told = "memory is full after step 0, with 4 pictures at once; set compute.micro_batch=2 and"
    with pytest.raises(LiDiTError, match=told):
        run(folder, "greedy", llms)
    run(folder, "modest", llms, compute={"micro_batch": 2})


def test_captions_are_read_in_halves_where_memory_is_full(world, monkeypatch):
    folder, llms = world
    rows = LLMEncoder.encode_rows

    def greedy(self, prompts):
        if len(prompts) > 3:
            torch.empty(1 << 60)
        return rows(self, prompts)

    monkeypatch.setattr(LLMEncoder, "encode_rows", greedy)
    assert run(folder, "halves", llms)


def test_what_the_recipe_does_not_read_is_cleared_from_its_caches(world, capsys):
    folder, llms = world
    source = {"sources": [{"kind": "folder", "path": str(pictures(folder / "some"))}]}
    run(folder, "cleared", llms, data=source)
    cache = folder / "cleared" / "cache"
    before = sorted(path for path in cache.rglob("*.safetensors"))
    for name in ("03", "04"):
        (folder / "some" / f"{name}.png").unlink()
    command = [*words(folder, folder / "recipe.yaml", "cleared", llms)[2:], "--device", "cpu"]
    assert main([*command, "--clear-cache"]) == 0
    after = sorted(path for path in cache.rglob("*.safetensors"))
    assert set(after) < set(before) and f"{len(before) - len(after)} cached files" in (
        capsys.readouterr().out
    )
    shutil.rmtree(folder / "cleared" / "checkpoints")
    run(folder, "cleared", llms, data=source)
    assert main([*command, "--clear-cache"]) == 0
    assert capsys.readouterr().out.startswith("0 cached files")
