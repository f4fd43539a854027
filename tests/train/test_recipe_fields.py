"""Every field of a recipe is used or refused, by every task.

Run: pytest tests/train/test_recipe_fields.py; with LIDIT_LONG=1, every field in every task.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from changed_fields import AS_ADAPTER, AS_WITHOUT, BRIDGE, CHANGED, FONT, OF_A_TASK, TASKS
from tiny_adapter_training import SHAPE, write_demo_checkpoint
from tiny_bridge import bridge_recipe, make_bridge_world, make_demo_recording
from tiny_training import curve, fields, make_world, pictures, run, save_encoder, spec, write_recipe

from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_train.loop.computing import cpu
from lidit_train.recipe_file import field_names, read_recipe
from lidit_train.run import train
from lidit_train.tasks.task import open_task

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """What the basis reads: pictures of two folders and a table, two LLMs."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder, "one", "two")
    pictures(folder / "others", 5, (80, 40))
    for file in (folder / "pictures").glob("*.txt"):
        file.with_suffix(".long.txt").write_text(f"{file.read_text()}, told at length")
    rows = [{"file_name": f"{n:02}.png", "again": f"{11 - n:02}.png", "txt": "x"} for n in range(9)]
    for n, row in enumerate(rows):
        row |= {"score": n, "said": "a, b, c" if n % 2 else "see www.x.y"}
        row["tags"] = f"a {n}, red, blue, green, round"
        row["some"] = "x" if n < 4 else ""
    table = "\n".join(map(json.dumps, rows))
    (folder / "pictures" / "metadata.jsonl").write_text(table)
    return folder, llms


@pytest.fixture(scope="module")
def world(sources):
    """Beside them what changed fields name: vision encoders, a LI-DiT, bridges, small checkpoints
    of Stable Diffusion's layout, and caches that all runs share."""
    folder, llms = sources
    save_encoder(folder / "encoder")
    save_encoder(folder / "encoder2", "ViT")
    make_bridge_world(folder, False, "student", "second")
    if find_spec("diffusers"):
        write_demo_checkpoint(folder / "base.safetensors")
        write_demo_checkpoint(folder / "other.safetensors", replace(SHAPE, context_width=24))
        write_demo_checkpoint(folder / "larger.safetensors", replace(SHAPE, model_channels=64))
        bag = make_demo_recording(folder / "bag", folder / "base.safetensors")
        recorded = {"sources": [{"kind": "recording", "path": str(bag)}]}
        for name, width in (("bridge", 32), ("bridge2", 64)):
            made = bridge_recipe(folder, data=recorded, bridge={"width": width})
            train(made, folder / name, "cpu")
    shutil.copytree(folder / "recording", folder / "another")
    table_of = folder / "another" / "teacher.safetensors"
    seeds = read_safetensors(table_of)
    write_safetensors(table_of, {**seeds[0], "seeds": -seeds[0]["seeds"]}, seeds[1])
    run(folder, "base", {"one": llms["one"]}, stages=[{"images": 16, "batch": 4, "resolution": 32}])
    return folder, llms


def basis(folder: Path) -> dict:
    """Three steps on two sources of two shapes, with both LLMs."""
    data = fields(folder, "one", "two")
    data["stages"] = [{"images": 6, "batch": 2, "resolution": 32}]
    others = {"kind": "folder", "path": str(folder / "others")}
    data["data"]["sources"] = [data["data"]["sources"][0], others]
    data["cache"] |= {"folder": str(folder / "cache")}
    data["checkpoints"] = {"every": 3}
    data["validation"] = {"every": 3, "prompts": ["a cat"], "steps": 1}
    data["hardware"] = {"device": "H100"}
    return data


def plan_of(path: Path) -> dict[str, str]:
    """What `--print-plan` shows, without the disk that is free just now; or the refusal."""
    try:
        plan = open_task(read_recipe(path)).plan(Path("."))
    except LiDiTError as error:
        return {"refused": str(error)}
    return {"plan": re.sub(r"^.*\bfree\b.*$", "", plan, flags=re.M)}


def observed(data: dict, folder: Path, llms: dict[str, str], out: str) -> dict[str, str]:
    """What a recipe brings about: its plan, its curve, its weights, its files; or its refusal."""
    path = write_recipe(folder, data, f"{out}.yaml")
    seen, recipe = plan_of(path), read_recipe(path)
    if recipe.compute.compile:  # a compiler takes minutes; what it makes is tested elsewhere
        return seen
    try:
        final = train(recipe, folder / out, "cpu", llms)
    except LiDiTError as error:
        return {**seen, "error": str(error)}
    tensors, metadata = read_safetensors(final)
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(tensors[key].reshape(-1).view(torch.uint8).numpy().tobytes())
    pictures = [p for p in sorted((folder / out).rglob("grids/*.png"))]
    return {
        **seen,
        "weights": digest.hexdigest(),
        "names": json.dumps(sorted(tensors)),
        "config": json.dumps(metadata, sort_keys=True),
        "curve": json.dumps(curve(folder / out)),
        "grids": str([hashlib.sha256(p.read_bytes()).hexdigest() for p in pictures]),
        "files": str(sorted(p.name for p in (folder / out).glob("checkpoints/*"))),
        "trackers": str((folder / out / "trackers").exists()),
        "cache": str((folder / out / "cache").exists()),
    }


def put(data: dict, place: str, value) -> None:
    *path, last = place.split(".")
    for key in path:
        data = data[int(key)] if isinstance(data, list) else data.setdefault(key, {})
    data[int(last) if isinstance(data, list) else last] = value


def test_every_field_of_a_recipe_is_tried():
    assert set(CHANGED) == set(field_names())


def place_of(name: str) -> str:
    """A field's place in the basis: the first of a list of records."""
    name = name.replace("sources.", "sources.0.", 1) if name.startswith("data.sources.") else name
    name = name.replace("validation.prompts.", "validation.prompts.0.", 1)
    return name.replace("stages.", "stages.0.", 1).replace("subsets.", "subsets.0.", 1)


def owner(name: str) -> str:
    """The task that alone has this field; "" = every task has it."""
    section = name.split(".")[0]
    return section if section in ("lora", "adapter", "bridge") else ""


def trained(task: str) -> str:
    """What a basis trains."""
    return TASKS[task].get("trains", task)


def section_of(name: str) -> str:
    return name.split(".")[0]


def case(task: str, name: str) -> tuple[object, dict]:
    """Another value for a field, and what the basis needs besides."""
    changed = OF_A_TASK.get((task, name), CHANGED[name])
    value, others = changed if isinstance(changed, tuple) else (changed, {})
    if owner(name) not in ("", trained(task)):  # beside a task that has no such section
        others = {k: v for k, v in others.items() if section_of(k) == section_of(name)}
    if trained(task) == "bridge" and task != "pairs":  # which has one source of a kind of its own
        others = {k: v for k, v in others.items() if not k.startswith("data.sources")}
    if task in ("through", "pairs"):  # which have sections of their own
        others = {k: v for k, v in others.items() if k not in BRIDGE}
    if name == "stages.subsets.branches" and task != "adapter":
        others = {"stages.0.subsets": [{"branches": [0, 1]}]}
    return value, {**TASKS[task], **others}


def has_case(task: str, name: str) -> bool:
    """Whether a field is not as in another task's case."""
    if task == "through":
        return section_of(name) not in AS_WITHOUT
    return task != "pairs" or not name.startswith(AS_ADAPTER)


def cases() -> Iterator[pytest.param]:
    """Every field in every task; an ordinary run has time for each field in one of them.

    That is the task whose section it is, or the fields take turns.
    """
    for turn, name in enumerate(CHANGED):
        tasks = [task for task in TASKS if has_case(task, name)]
        own = [task for task in tasks if owner(name) == trained(task)]
        ordinary = (own or tasks)[turn % len(own or tasks)]
        for task in tasks:
            marks = [pytest.mark.font] * (name in FONT) + [pytest.mark.long] * (task != ordinary)
            yield pytest.param(task, name, marks=marks)


@pytest.mark.parametrize(("task", "name"), cases())
def test_a_field_changes_the_plan_or_the_run_or_is_refused(world, task, name, monkeypatch):
    """For every task: what a recipe says is never accepted and left unread."""
    monkeypatch.setattr(cpu, "has_instructions", lambda: True)  # any CPU can, if slowly
    if task in ("adapter", "through", "pairs") or name.startswith("bridge.through."):
        pytest.importorskip("diffusers")
    folder, llms = world
    value, others = case(task, name)
    (value,) = yaml.safe_load(yaml.safe_dump([value]).replace("{folder}", str(folder)))
    data = basis(folder)
    for place, other in others.items():
        put(data, place, json.loads(json.dumps(other).replace("{folder}", str(folder))))
    for changes in (data["model"].get("changes", {}), value if name == "model.changes" else {}):
        if changes.get("llms") == ["LLMS"]:
            changes["llms"] = [spec("one"), spec("two")]
    before = json.dumps(data)
    if name == "model.checkpoint" and task == "all":  # which stands in the preset's place
        data["model"] = {}
    put(data, place_of(name), value)
    out = f"{task}-{name.replace('.', '-')}"
    planned = plan_of(write_recipe(folder, data, f"{out}.yaml"))
    if owner(name) not in ("", trained(task)):
        assert "leave it out" in planned["refused"] and "\n" not in planned["refused"]
    elif "leave" in planned.get("refused", ""):
        return
    elif planned == plan_of(write_recipe(folder, json.loads(before), f"{out}.yaml")):
        after, first = observed(data, folder, llms, out), baseline(before, folder, llms)
        assert {key for key in after if first.get(key) != after[key]}, f"{name} changes nothing"
    shutil.rmtree(folder / out, ignore_errors=True)


_KNOWN: dict[str, dict[str, str]] = {}


def baseline(text: str, folder: Path, llms: dict[str, str]) -> dict[str, str]:
    """The basis is run once, and again shown to be the same; others are run when asked for."""
    if text not in _KNOWN:
        _KNOWN[text] = observed(json.loads(text), folder, llms, f"basis-{len(_KNOWN)}")
    return _KNOWN[text]


def test_without_a_change_plan_and_run_are_the_same(sources):
    folder, llms = sources
    first = baseline(json.dumps(basis(folder)), folder, llms)
    again = observed(basis(folder), folder, llms, "basis-again")
    assert "error" not in first
    assert first == again
