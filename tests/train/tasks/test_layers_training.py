"""Runs that train several layers, registers, and gates without time. Run: pytest -k test_layers"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from tiny_training import LLM, fields, make_world, run, spec, write_recipe

from lidit_core.checkpoints.lidit import load_lidit, read_config
from lidit_core.diffusion.sampling import initial_noise, sample
from lidit_core.errors import LiDiTError
from lidit_core.model.config import LiDiTConfig, RefinerConfig
from lidit_core.pipeline import load_pipeline
from lidit_train.recipe_file import read_recipe
from lidit_train.tasks.lidit.input import input_spec
from lidit_train.tasks.lidit.start import configuration

TAPS = [-3, 1, -5]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


@pytest.mark.parametrize(
    "refiner",
    [
        {"mix": "linear", "registers": 2},
        {"mix": "routed"},
        {"gates": "none"},
    ],
)
def test_a_run_trains_them_and_their_pictures_are_drawn(world, refiner):
    """Whitened from the states of its captions, which its cache keeps; at guidance 1 and 3."""
    folder, llms = world
    out = "-".join(refiner)
    model = fields(folder)["model"]["changes"]
    model = {**model, "llms": [{**spec(), "block": TAPS}], "refiner": refiner}
    weights = run(folder, out, llms, model={"preset": "stickers", "changes": model})
    learned = [w for k, w in weights.items() if ".taps." in k or "registers" in k]
    assert len(learned) == 2 * ("registers" in refiner) + (refiner.get("mix") == "routed")
    start = {"linear": 1 / 3, "routed": 0.0}.get(refiner.get("mix"), 0.0)
    assert all((w - start).abs().max() > 0 for w in learned)
    path = folder / out / "final.safetensors"
    assert read_config(path).llms[0].block == tuple(TAPS)
    pipeline = load_pipeline(str(path), [f"{LLM}={llms[LLM]}"], device="cpu")
    text, negative = pipeline.encode(["a cat"]), pipeline.encode([""])
    noise, drawn = initial_noise([1], 16, 4, 4), load_lidit(path).eval()
    one, three = (sample(drawn, noise, text, negative, 3, guidance) for guidance in (1.0, 3.0))
    assert torch.isfinite(one).all() and torch.isfinite(three).all() and not one.equal(three)


def test_a_plan_counts_the_states_of_all_layers(world):

    folder, _ = world
    data = fields(folder)
    data["model"]["changes"]["llms"] = [{**spec(), "block": TAPS}]
    recipe = read_recipe(write_recipe(folder, data, "plan.yaml"))
    assert input_spec(configuration(recipe.model, recipe.stages)).widths == (3 * 32,)


def configured(folder: Path, name: str, block) -> LiDiTConfig:
    data = fields(folder)
    data["model"]["changes"]["llms"] = [{**spec(name), "block": block}]
    recipe = read_recipe(write_recipe(folder, data, "taps.yaml"))
    return configuration(recipe.model, recipe.stages)


def test_taps_are_every_third_block_and_the_third_to_last(world, monkeypatch):
    """Of the LLM that is found under the name; one that is not, or only as a GGUF, is told."""
    folder, _ = world
    monkeypatch.chdir(folder)
    assert configured(folder, LLM, "taps").llms[0].block == (3, 4)  # of six blocks
    assert configured(folder, LLM, -3).llms[0].block == -3
    with pytest.raises(LiDiTError, match="no-such-llm"):
        configured(folder, "no-such-llm", "taps")
    (folder / "one.gguf").write_bytes(b"GGUF")
    with pytest.raises(LiDiTError, match=r"write the blocks as numbers, as \[3, 6, 9\]"):
        configured(folder, "one.gguf", "taps")


def test_the_documented_text_side_is_one(world, monkeypatch):
    """The recipe of docs/text-side.md, with a tiny LLM in SmolLM2's place, and its table."""
    folder, _ = world
    monkeypatch.chdir(folder)
    text = (Path(__file__).resolve().parents[3] / "docs" / "text-side.md").read_text("utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    data = {**fields(folder), **yaml.safe_load(shown)}
    data["model"]["changes"]["llms"][0] |= {"name": LLM, "width": 32}
    recipe = read_recipe(write_recipe(folder, data, "documented.yaml"))
    made = configuration(recipe.model, recipe.stages)
    assert made.llms[0].block == (3, 4) and not made.refiner.gated
    table = dict(
        re.findall(r"^\| `(\w+): (\w+)` \|", text.partition("in `refiner`")[2], re.MULTILINE)
    )
    known = {name: str(value).lower() for name, value in asdict(RefinerConfig()).items()}
    assert table == {name: known[name] for name in table}
    assert {*known} - {*table} == {"entry_norm", "qk_norm", "registers_kept"}
