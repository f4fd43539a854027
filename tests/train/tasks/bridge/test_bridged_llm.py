"""A bridge in the place of an LLM that a LI-DiT reads: `--llm NAME=BRIDGE`. Run: pytest"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from tiny_bridge import bridge_recipe, prompts
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.branches import choose_llms, open_encoders
from lidit_core.bridge.file import BRIDGE_KEY, read_bridge_config
from lidit_core.bridge.teacher import write_teacher
from lidit_core.bridged import BridgedPrompts
from lidit_core.cli import main
from lidit_core.cli.record import _of_llm, _teacher
from lidit_core.errors import LiDiTError
from lidit_core.io.recording import record
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_train.run import train

TEXTS = ["a red cat", "", "three apples and two dogs", "left " * 60]
TEMPLATES = ["none", "short", "paper"]
BUDGET = 24


def spec_of(template: str, name: str = "teacher") -> LLMSpec:
    return LLMSpec(name, 32, template=find_template(template), token_budget=BUDGET)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An LLM that is recorded, and the same weights as the one that is to write its states."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("teacher", "student"):
        save_llm(folder / name)
    return folder


@pytest.fixture(scope="module")
def bridge(world):
    """Gives the bridge to the LLM under a template, trained once."""
    made = {}

    def of(template: str):
        if template not in made:
            spec, out = spec_of(template), world / template
            encoder = native(world, spec)
            record(_of_llm(encoder), prompts(200), out / "recording")
            write_teacher(out / "recording", _teacher(spec, encoder))
            sources = {"sources": [{"kind": "recording", "path": str(out / "recording")}]}
            asked = {"bridge": {"template": template, "token_budget": BUDGET}}
            asked |= {"stages": [{"images": 4, "batch": 4}]}
            recipe = bridge_recipe(world, data=sources, **asked)
            made[template] = train(recipe, out / "run", Accelerator(cpu=True))
        return made[template]

    return of


def native(world, spec: LLMSpec) -> PromptEncoder:
    return PromptEncoder(world / spec.name, spec.template, spec.block, spec.token_budget)


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_are_read_as_the_llm_reads_them(world, bridge, template, monkeypatch):
    """Its tokens, their roles and places, what is cut; and states that are near its own."""
    monkeypatch.chdir(world)  # where the bridge's LLM lies under its name
    spec = spec_of(template)
    ours = BridgedPrompts(str(bridge(template)), spec, "cpu").encode_rows(TEXTS, offsets=True)
    theirs = native(world, spec).encode_rows(TEXTS, offsets=True)
    for own, its in zip(ours, theirs):
        assert own.roles.tolist() == its.roles.tolist() and own.span == its.span
        assert (own.used, own.total, own.budget) == (its.used, its.total, its.budget)
        assert own.offsets.tolist() == its.offsets.tolist()
        text = slice(*own.span)
        near = torch.cosine_similarity(own.hidden[text], its.hidden[text], dim=-1)
        assert (near > 0.9).all()
    assert ours[-1].used == BUDGET < ours[-1].total


def test_an_llm_that_lies_beside_the_file_is_found(world, bridge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no LLM is
    file, name = bridge("short"), read_bridge_config(bridge("short")).llms[0].name
    beside = Path(shutil.copy(file, tmp_path / "bridge.safetensors"))
    shutil.copytree(world / name, tmp_path / name)
    found = BridgedPrompts(str(beside), spec_of("short"), "cpu").encode_rows(TEXTS[:1])
    monkeypatch.chdir(world)
    known = BridgedPrompts(str(file), spec_of("short"), "cpu").encode_rows(TEXTS[:1])
    assert torch.equal(found[0].hidden, known[0].hidden)


def test_a_picture_is_drawn_by_a_bridge_as_by_the_llm(world, bridge, monkeypatch, tmp_path):
    monkeypatch.chdir(world)
    config = lidit_config("teacher")
    config = replace(config, llms=(replace(spec_of("short"), longest_prompt=0),))
    model = save_lidit_files(tmp_path / "model", config)
    shared = ["--model", str(model), "--steps", "3", "--seed", "1", "--device", "cpu"]
    file = str(bridge("short"))
    drawn = {}
    for name, llm in {"its": "teacher", "ours": file, "named": f"teacher={file}"}.items():
        out = tmp_path / f"{name}.png"
        assert main(["generate", TEXTS[0], *shared, "--llm", llm, "--out", str(out)]) == 0
        drawn[name] = np.asarray(Image.open(out)).astype(int)
    out = tmp_path / "other.png"
    assert main(["generate", TEXTS[2], *shared, "--llm", file, "--out", str(out)]) == 0
    apart = np.abs(drawn["its"] - np.asarray(Image.open(out))).mean()
    assert (drawn["ours"] == drawn["named"]).all()
    assert np.abs(drawn["its"] - drawn["ours"]).mean() < 0.5 * apart


@pytest.mark.parametrize("trained_on, said", [("float", False), ("q4", True), (None, False)])
def test_an_llm_in_other_numbers_than_trained_on_is_told(
    world, bridge, monkeypatch, tmp_path, caplog, trained_on, said
):
    """Once, when it draws, also from cached states. A file of before does not say it, and loads."""
    monkeypatch.chdir(world)
    tensors, metadata = read_safetensors(bridge("short"))
    config = json.loads(metadata[BRIDGE_KEY])
    assert config["llms"][0].pop("storage") == "float"
    config["llms"][0] |= {"storage": trained_on} if trained_on else {}
    other = tmp_path / "other.safetensors"
    write_safetensors(other, tensors, {**metadata, BRIDGE_KEY: json.dumps(config)})
    model = replace(lidit_config("teacher"), llms=(spec_of("short"),))
    model = save_lidit_files(tmp_path / "model", model)
    words = ["--model", str(model), "--steps", "1", "--device", "cpu", "--llm", str(other)]
    caplog.clear()
    assert main(["generate", TEXTS[0], *words, "--out", str(tmp_path / "x.png")]) == 0
    told = [m for m in caplog.messages if "is stored as float here and this was trained on" in m]
    assert len(told) == said


def test_another_bridge_than_the_model_needs_is_told(world, bridge, monkeypatch):
    monkeypatch.chdir(world)
    file = str(bridge("short"))
    config = replace(lidit_config("teacher"), llms=(spec_of("short"),))
    other = replace(config, llms=(spec_of("short", "somebody"),))
    assert choose_llms(config, [file], []) == {0: file}
    with pytest.raises(LiDiTError, match="writes states of teacher, and this LI-DiT was"):
        choose_llms(other, [file], [])
    wide = replace(config, llms=(replace(spec_of("short"), width=48),))
    with pytest.raises(LiDiTError, match="32 wide, and the branch reads states of .*48"):
        open_encoders(wide, {0: file}, "cpu")
    small = replace(config, llms=(replace(spec_of("short"), token_budget=8),))
    with pytest.raises(LiDiTError, match="as one text of up to 8"):
        open_encoders(small, {0: file}, "cpu")
    elsewhere = replace(config, llms=(replace(spec_of("short"), block=-2),))
    with pytest.raises(LiDiTError, match="at layer -3, and the branch reads layer -2"):
        open_encoders(elsewhere, {0: file}, "cpu")
    worded = replace(config, llms=(spec_of("paper"),))
    with pytest.raises(LiDiTError, match="under the template short, and the .* under paper"):
        open_encoders(worded, {0: file}, "cpu")
    with pytest.raises(LiDiTError, match="states of teacher, and the branch reads .* of somebody"):
        open_encoders(other, choose_llms(other, [f"somebody={file}"], []), "cpu")
    ours = open_encoders(config, {0: file}, "cpu")[0]
    with pytest.raises(LiDiTError, match="is a bridge and holds no LLM"):
        ours.encoder()
    assert ours.identity() != native(world, spec_of("short")).identity()
