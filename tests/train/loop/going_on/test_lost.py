"""A process that another one has left alone, or waits for too long, ends with one sentence.

Run: pytest tests/train/loop/going_on/test_lost.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import psutil
import pytest
from processes import environment, together
from tiny_training import fields, make_world, write_recipe

from lidit_core.cli import main
from lidit_train.loop.lost import THEN, sentence_of_loss

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
LONG = [{"images": 40000, "batch": 4, "resolution": 32}]
ALONE = """
import json, os, sys
from pathlib import Path
import torch
from lidit_train.loop.lost import sentence_of_loss
from lidit_train.loop.parallel import accelerator_for, made_in_shares
from lidit_train.loop.voice import by_first, of_all
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run

recipe, out, (name, place) = read_recipe(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split("=", 1)
accelerator = accelerator_for(recipe.compute, "cpu", wait=1)
run = begin_run(recipe, out, accelerator, {name: place})
trainer = run.trainer
trainer.begin()
fetched, batch = next(iter(trainer.loader))
trainer.train_step(batch, trainer.losses)
trainer.save(fetched.plan.position)
if accelerator.process_index:
    os._exit(0)

def in_turn():
    with accelerator.main_process_first():
        pass

one, told = torch.ones(1), {}
acts = {
    "a step": lambda: trainer.train_step(batch, trainer.losses),
    "a save": lambda: trainer.save(fetched.plan.position),
    "a resume": trainer.resume,
    "a line of the log": lambda: trainer._write(trainer.losses),
    "a file": lambda: run.write(out / "file.safetensors"),
    "an act of the first": lambda: by_first(accelerator, lambda: None),
    "what all have": lambda: of_all(accelerator, [1]),
    "shares": lambda: made_in_shares(lambda rows: rows, torch.ones(2, 1)),
    "a wait": accelerator.wait_for_everyone,
    "one after the other": in_turn,
    "a sum": lambda: accelerator.reduce(one),
    "a list": lambda: accelerator.gather(one),
}
for name, act in acts.items():
    try:
        act()
        told[name] = "it passed"
    except BaseException as error:
        told[name] = sentence_of_loss(error) or repr(error)
print(json.dumps(told), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.long)])
def test_wherever_a_process_is_left_alone_it_says_so(world, shard):
    folder, llms = world
    compute = {"precision": "float32", "shard": shard}
    recipe = write_recipe(folder, fields(folder, *llms, compute=compute), f"alone-{shard}.yaml")
    words = [str(recipe), str(folder / f"alone-{shard}"), *[f"{k}={v}" for k, v in llms.items()]]
    told, _ = together(*[[sys.executable, "-c", ALONE, *words]] * 2)
    ended = "another of the processes that train together has ended" + THEN
    found = json.loads(told)
    assert len(found) == 12
    assert {name: said for name, said in found.items() if said != ended} == {}


@pytest.mark.long  # a wait that a busy machine does not reach while all is well takes a minute
@pytest.mark.parametrize("how", ["halted", "killed"])
def test_one_process_that_lives_says_once_that_the_other_does_not_and_the_run_goes_on(world, how):
    folder, llms = world
    data = fields(folder, *llms, stages=LONG, checkpoints={"every": 2})
    words = ["train", str(write_recipe(folder, data, f"{how}.yaml")), "--out", str(folder / how)]
    words += ["--device", "cpu", *[f"--llm={name}={place}" for name, place in llms.items()]]
    run = subprocess.Popen(
        [*LAUNCHER, "-m", "lidit_core", *words, "--wait", "1"],
        env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    saved = folder / how / "checkpoints" / "step-0000002" / "numbers.json"
    try:
        until = time.monotonic() + 120
        while run.poll() is None and not saved.is_file():
            assert time.monotonic() < until, f"{saved} is not written"
            time.sleep(0.05)
        pair = {p.environ()["RANK"]: p for p in psutil.Process(run.pid).children()}
        if how == "killed":
            pair["1"].kill()
        else:
            pair["1"].suspend()
            pair["0"].wait(180)
            pair["1"].resume()
        said = run.communicate(timeout=180)[1]
    finally:
        run.kill()
    assert run.returncode == 1
    sentences = [line for line in said.splitlines() if line.startswith("lidit: another")]
    assert len(sentences) == 1, said
    (sentence,) = sentences
    reason = "has ended" if how == "killed" else "did not answer within 1 minutes"
    assert reason in sentence and sentence.endswith(THEN)
    assert "gloo" not in said and "lidit_train" not in said.replace(sys.executable, ""), said
    few = ["--set", "stages.0.images=4", "--set", "optimiser.warmup=0"]
    assert main([*words, *few]) == 0  # of a run that has made more steps: the final file


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "[/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting "
            "1800000ms for recv operation to complete",
            "did not answer within 30 minutes, as after a halt",
        ),
        ("[/x/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:5", "has ended;"),
        ("[enforce fail at gloo/allreduce.cc] 4 vs 8", None),
        ("mat1 and mat2 shapes cannot be multiplied", None),
        ("the picture's server: connection reset", None),
    ],
)
def test_only_what_another_process_caused_is_told_as_such(words, told):
    said = sentence_of_loss(RuntimeError(words))
    assert said is None if told is None else told in said


@pytest.mark.parametrize("wait", ["0", "-1", "nan", "soon"])
def test_a_wait_is_a_time(wait, capsys):
    with pytest.raises(SystemExit):
        main(["train", "x.yaml", "--wait", wait])
    assert f"'{wait}' is no time; write minutes" in capsys.readouterr().err
