"""`lidit train` as people type it. Run: pytest tests/train/test_train_command.py"""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_training import fields, pictures, write_recipe

from lidit_core.checkpoints.lidit import load_lidit
from lidit_core.cli import AboveBars, main
from lidit_core.errors import LiDiTError
from lidit_core.llm.demo_llms import find_demo
from lidit_core.llm.fetch import is_complete
from lidit_train.command import steps_bar
from lidit_train.loop.parallel import accelerator_for
from lidit_train.recipe import Compute
from lidit_train.recipe_file import read_recipe
from lidit_train.tasks.task import open_task

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "recipes" / "smoke.yaml")
SHORT = ["--device", "cpu", "--set", "stages.0.images=64", "--set", "validation.every=4"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no-recipe.yaml", "--out", "x"], "recipe no-recipe.yaml cannot be read"),
        ([SMOKE], "--out is missing"),
        ([SMOKE, "--out", "x", "--set", "seed"], "expected key.sub=value"),
        ([SMOKE, "--out", "x", "--llm", "smollm2"], "expected NAME=SOURCE"),
        ([SMOKE, "--out", "x", "--llm", "SmolLM2=y"], "NAME one of SmolLM2-135M-Instruct"),
        ([SMOKE, "--out", "x", "--set", "data.sources.0.path=nowhere"], "nowhere is not there"),
        (
            [SMOKE, "--out", "x", "--set", "compute.shard=true", "--device", "cpu"],
            "and this is one",
        ),
    ],
)
def test_a_mistake_is_one_sentence(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lidit: ")]
    assert told in said[-1]


def test_the_smoke_recipe_needs_no_llm_and_makes_a_file_that_loads(
    tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "no-llm-here"))
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "lidit_train"):
        assert main(["train", SMOKE, "--out", "run", *SHORT]) == 0
    assert caplog.messages[0] == "training on 1 process (cpu)"
    (seen,) = [message for message in caplog.messages if "is seen about" in message]
    told = (
        "recipes/smoke/pictures: each of its 12 pictures is seen about 5.3 times over the whole run"
    )
    assert seen.endswith(told)  # 64 / 12
    assert capsys.readouterr().out.strip() == str(Path("run", "final.safetensors"))
    assert sorted(p.name for p in Path("run/grids").iterdir()) == ["0000004.png"]
    assert not (tmp_path / "no-llm-here").exists()
    model = load_lidit("run/final.safetensors")
    assert model.config.native_size == 64 and len(model.config.latent.rgb_factors) == 16


def test_the_documented_command_holds_pictures_out(tmp_path, monkeypatch, caplog):
    words = ["--set", "validation.held_out=0.2", "--set", "validation.every=10"]
    documented = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"lidit train recipes/smoke.yaml --out runs/held {' '.join(words)}" in documented
    monkeypatch.chdir(tmp_path)
    short = [*SHORT[:-2], *words[:2], "--set", "validation.every=2"]
    with caplog.at_level(logging.INFO, "lidit_train"):
        assert main(["train", SMOKE, "--out", "runs/held", *short]) == 0
    assert load_lidit("runs/held/best.safetensors").config.native_size == 64
    assert "2 pictures are held out and measured at 4 times each" in caplog.messages
    assert any(
        "each of its 10 pictures is seen about 6.4 times" in told for told in caplog.messages
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What stands on it: a carriage return goes back to a line's beginning."""
        shown = []
        for line in self.getvalue().split("\n"):
            places: list[str] = []
            for part in line.split("\r"):
                places[: len(part)] = part
            shown.append("".join(places).rstrip())
        return shown


def test_the_bar_counts_the_steps_that_are_made_and_leaves_what_is_told_a_line(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    told = logging.LogRecord("lidit_train", logging.INFO, "", 0, "step 30 of 60", None, None)
    logged = AboveBars(screen)
    with steps_bar(read_recipe(Path(SMOKE)), is_shown=True) as on_step:
        assert screen.lines() == [""]  # while caches are filled
        on_step(29, 1.5)  # the first one after a resume
        assert "29/60" in screen.lines()[-1] and "loss 1.500" in screen.lines()[-1]
        assert "?step/s" in screen.lines()[-1]  # none has been timed, and 28 were not made now
        logged.emit(told)
        on_step(30, 1.25)
        logged.emit(told)
    *told_, bar, end = screen.lines()
    assert told_ == ["step 30 of 60"] * 2 and "30/60" in bar and end == ""
    with steps_bar(read_recipe(Path(SMOKE)), is_shown=False) as on_step:
        on_step(1, 1.5)
    assert screen.lines()[-1] == ""


def test_recipes_in_the_documents_are_read(tmp_path):
    documented = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", documented, flags=re.S)
    assert len(blocks) >= 2
    for block in blocks:
        stages = {"stages": [{"images": 8000, "batch": 4}], "validation": {"every": 1}}
        data = {**fields(tmp_path, **stages), **yaml.safe_load(block)}
        task = open_task(read_recipe(write_recipe(tmp_path, data)))
        task.recipe.validation.check_sizes(task.spec.grain)
        assert "shifts" not in block or len(task.spec.shifts) == 2


def test_a_plan_loads_nothing_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--print-plan", str(ROOT / "recipes" / "LI-DiT-1B.yaml"), "--out", "run"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "1.106 billion" in told and "500,000 steps" in told and "32 x H100" in told
    assert not list(tmp_path.iterdir())
    assert main([*words, "--device", "cpu"]) == 0
    assert "32 processes on this CPU" in capsys.readouterr().out


NAMES = ("*.md", "docs/**/*.md", "recipes/*.yaml")
DOCUMENTS = [path for names in NAMES for path in ROOT.glob(names)]
TOLD = [*DOCUMENTS, *ROOT.glob("lidit_train/**/*.py")]


def launches() -> list[str]:
    """Every command, as people read it, that starts several processes."""
    texts = (re.sub(r"\\\n#?\s*", "", path.read_text()) for path in TOLD)
    command = r"python -m torch\.distributed\.run[^\n`]* -m lidit_core train [^\n`…]+"
    return [found for text in texts for found in re.findall(command, text)]


def smallest(command: str, out: Path, **changed: str) -> list[str]:
    """The command's words for the smoke recipe, with the numbers that its options are given."""
    words = [SMOKE if w == "RECIPE" or w.endswith(".yaml") else w for w in command.split()]
    for option, value in {"out": str(out), **changed}.items():
        words[words.index(f"--{option}") + 1] = value
    return [sys.executable, *words[1:], *SHORT[2:]]


def start(words: list[str], **more: str) -> subprocess.Popen:
    """On the CPU, as where there is no GPU."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **more}
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen) -> str:
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 0, said
    return said


def took_part(run: Path) -> int:
    """Processes, each of which left its random state in the newest checkpoint."""
    return len(list(max((run / "checkpoints").iterdir()).glob("random-*")))


def test_the_command_for_two_processes_starts_two(tmp_path):
    (command,) = {c for c in launches() if "recipes/stickers.yaml" in c}
    assert command.startswith("python -m torch.distributed.run --nproc_per_node 2 -m")
    said = told(start(smallest(command, tmp_path / "run")))
    assert took_part(tmp_path / "run") == 2
    assert said.count("lidit: training on 2 processes (cpu)") == said.count("training on") == 1
    assert said.count("step 4 of 4") == 1


@pytest.mark.long
def test_the_command_for_several_machines_joins_them(tmp_path):
    (command,) = (c for c in launches() if "--nnodes" in c)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    few = {"nnodes": "2", "nproc_per_node": "1", "rdzv_endpoint": host}
    words = smallest(command, tmp_path / "run", **few)
    machines = [start(words), start(words)]
    assert "training on 2 processes" in "".join(told(machine) for machine in machines)
    assert took_part(tmp_path / "run") == 2


def test_every_command_for_several_processes_is_one_of_those_two():
    pattern = (
        r"python -m torch\.distributed\.run (--nnodes \d+ )?--nproc_per_node \d+ "
        r"(--rdzv_backend c10d --rdzv_endpoint HOST:29500 )?-m lidit_core train \S+ --out \S+"
        r"( --set \S+)*"
    )
    assert len(launches()) >= 5
    for command in launches():
        assert re.fullmatch(pattern, command.strip()), command
    for path in TOLD:
        assert not re.search(r"accelerate launch.*(-m lidit_core|\\$)", path.read_text()), path


@pytest.mark.parametrize("number", [1, 2])
def test_a_launcher_that_starts_one_of_several_is_told(tmp_path, number):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu"]
    launcher += ["--num_processes", str(number), "-m", "lidit_core", "train"]
    said = told(start([*launcher, SMOKE, "--out", str(tmp_path / "run"), *SHORT]))
    assert "training on 1 process (cpu)" in said and took_part(tmp_path / "run") == 1
    assert ("torch.distributed.run --nproc_per_node N" in said) == (number > 1)


def test_processes_that_are_not_joined_do_not_train_each_for_itself(monkeypatch):
    accelerator_for(Compute(), "cpu")  # alone, whatever is started from here on
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LiDiTError, match="2 processes were started, and this one is joined to 0"):
        accelerator_for(Compute(), "cpu")


def photographs(folder: Path) -> Path:
    """A folder as people keep it: formats and captions of all kinds, one turned, one cut short."""
    pictures(folder, 8, (300, 200))
    Image.open(folder / "00.png").save(folder / "10.jpg")
    Image.open(folder / "00.png").save(folder / "11.JPG")
    Image.open(folder / "00.png").save(folder / "12.webp")
    turned = Image.Exif()
    turned[274] = 6  # to be turned by a quarter
    Image.open(folder / "00.png").save(folder / "13.jpg", exif=turned)
    for name in ("10", "11", "13"):
        (folder / f"{name}.txt").write_bytes(f"a holiday, {name}".encode("utf-16"))
    (folder / "12.caption").write_text("a holiday")
    (folder / "01.txt").unlink()
    (folder / "02.png").write_bytes((folder / "02.png").read_bytes()[:9000])
    (folder / "Thumbs.db").write_bytes(bytes(99))
    return folder


@pytest.mark.long
def test_the_documented_commands_make_a_lora_of_a_folder_of_photographs(
    tmp_path, monkeypatch, caplog
):
    if not is_complete(find_demo("smollm2")):
        pytest.skip("SmolLM2 is not here: lidit fetch smollm2")
    documented = (ROOT / "docs" / "first-lora.md").read_text(encoding="utf-8")
    (training,) = re.findall(r"^lidit (train .*runs/first .*)$", documented, re.M)
    (drawing,) = re.findall(r"^lidit (generate .*)$", documented, re.M)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    photographs(tmp_path / "my-pictures")
    smallest = ["--device", "cpu", "--set", "stages.0.images=16", "--set", "stages.0.batch=8"]
    with caplog.at_level(logging.INFO, "lidit_train"):
        assert main([*shlex.split(training), *smallest]) == 0
    said = "\n".join(caplog.messages)
    assert "1 picture left out: has no caption" in said and "(01.png)" in said
    assert "each of its 11 pictures is seen" in said
    assert "my-pictures: 1 cannot be decoded, and the next is taken instead (02.png)" in said
    words = [*shlex.split(drawing), "--device", "cpu"]
    assert main(words) == 0
    place = words.index("--lora")
    assert main([*words[:place], *words[place + 2 : -3], "without.png", *words[-2:]]) == 0
    with_it, without = (np.asarray(Image.open(name)) for name in ("with.png", "without.png"))
    assert with_it.shape == without.shape and (with_it != without).any()
