"""Refiners in files of their own. Run: pytest tests/core/checkpoints/test_refiner_file.py"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_lidit import lidit_config, random_states, randomise

from lidit_core.checkpoints.lidit import load_lidit, read_lidit, save_lidit
from lidit_core.checkpoints.refiner import REFINER_KEY, exchange_refiner, read_refiner, save_refiner
from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.model.dit import LiDiT
from lidit_core.text.spec import LLMSpec


def config(*llms: tuple[str, int], **changes):
    specs = tuple(LLMSpec(name, width) for name, width in llms)
    return replace(lidit_config("a", "b"), llms=specs, **changes)


def checkpoint(path, made, seed: int):
    model = randomise(LiDiT(made), seed)
    save_lidit(model, made, path)
    return model


def checkpoint_file(folder, made, seed: int = 1):
    checkpoint(folder / "base.safetensors", made, seed)
    return folder / "base.safetensors"


def test_another_llm_takes_a_branch_with_the_refiner_trained_on_it(tmp_path):
    checkpoint(tmp_path / "base.safetensors", config(("a", 24), ("b", 24)), 1)
    donor = checkpoint(tmp_path / "donor.safetensors", config(("a", 24), ("c", 40)), 2)
    assert main(["refiner", str(tmp_path / "donor.safetensors"), "--llm", "c", "--out",
                 str(tmp_path / "c.safetensors")]) == 0  # fmt: skip
    made, weights = read_lidit(tmp_path / "base.safetensors")
    made, weights = exchange_refiner(made, weights, tmp_path / "c.safetensors", branch=1)
    assert [llm.name for llm in made.llms] == ["a", "c"]
    save_lidit(weights, made, tmp_path / "exchanged.safetensors")
    model = load_lidit(tmp_path / "exchanged.safetensors")
    theirs = donor.text_side.linguistic[1].state_dict()
    ours = model.text_side.linguistic[1].state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[k], ours[k]) for k in theirs)
    text = {1: random_states(5, width=40, seed=3)}
    assert model(torch.randn(1, 16, 4, 4), torch.tensor([500.0]), text).isfinite().all()


def test_its_own_refiner_put_back_changes_nothing(tmp_path):
    checkpoint(tmp_path / "base.safetensors", config(("a", 24), ("b", 24)), 1)
    save_refiner(tmp_path / "base.safetensors", "b", tmp_path / "b.safetensors")
    made, weights = read_lidit(tmp_path / "base.safetensors")
    same, merged = exchange_refiner(made, weights, tmp_path / "b.safetensors")
    assert same == made and all(torch.equal(weights[k], merged[k]) for k in weights)


@pytest.mark.parametrize("known", [None, 7])
def test_the_longest_prompt_of_a_branch_goes_with_its_refiner(tmp_path, known):
    made = config(("a", 24), ("b", 24))
    longer = replace(made, llms=(made.llms[0], replace(made.llms[1], longest_prompt=known)))
    checkpoint(tmp_path / "donor.safetensors", longer, 2)
    save_refiner(tmp_path / "donor.safetensors", "b", tmp_path / "b.safetensors")
    specs = tuple(replace(spec, longest_prompt=3) for spec in made.llms)
    base = replace(made, llms=specs)
    _, weights = read_lidit(checkpoint_file(tmp_path, base))
    exchanged, _ = exchange_refiner(base, weights, tmp_path / "b.safetensors")
    assert [spec.longest_prompt for spec in exchanged.llms] == [3, known]


def test_a_refiner_file_without_the_longest_prompt_is_read(tmp_path):
    checkpoint(tmp_path / "donor.safetensors", config(("a", 24), ("b", 24)), 2)
    save_refiner(tmp_path / "donor.safetensors", "b", tmp_path / "b.safetensors")
    tensors, metadata = read_safetensors(tmp_path / "b.safetensors")
    older = json.loads(metadata[REFINER_KEY])
    del older["llm"]["longest_prompt"]
    write_safetensors(tmp_path / "older.safetensors", tensors, {REFINER_KEY: json.dumps(older)})
    assert read_refiner(tmp_path / "older.safetensors").spec.longest_prompt is None


@pytest.mark.parametrize("branch, told", [(2, "branch 3 was asked for, and this model has 2"),
                                          (-1, "branch 0 was asked for"),
                                          (0, "b is read by another one")])  # fmt: skip
def test_a_branch_that_cannot_be_taken_is_named(tmp_path, branch, told):
    checkpoint(tmp_path / "base.safetensors", config(("a", 24), ("b", 24)), 1)
    save_refiner(tmp_path / "base.safetensors", "b", tmp_path / "b.safetensors")
    made, weights = read_lidit(tmp_path / "base.safetensors")
    with pytest.raises(LiDiTError, match=told):
        exchange_refiner(made, weights, tmp_path / "b.safetensors", branch)


@pytest.mark.parametrize("damaged", ['{"llm"', "[]", "{}", '{"llm": 3}', '{"llm": {"name": "b"}}'])
def test_a_damaged_description_is_one_sentence(tmp_path, damaged):
    checkpoint(tmp_path / "base.safetensors", config(("a", 24), ("b", 24)), 1)
    made, weights = read_lidit(tmp_path / "base.safetensors")
    write_safetensors(tmp_path / "b.safetensors", {"a": torch.zeros(1)}, {REFINER_KEY: damaged})
    with pytest.raises(LiDiTError, match="b.safetensors"):
        exchange_refiner(made, weights, tmp_path / "b.safetensors")


def test_a_refiner_that_does_not_fit_is_named(tmp_path):
    checkpoint(tmp_path / "base.safetensors", config(("a", 24), ("b", 24)), 1)
    made, weights = read_lidit(tmp_path / "base.safetensors")
    with pytest.raises(LiDiTError, match="no refiner file"):
        exchange_refiner(made, weights, tmp_path / "base.safetensors")
    checkpoint(tmp_path / "c.safetensors", config(("c", 24), ("d", 24)), 1)
    save_refiner(tmp_path / "c.safetensors", "c", tmp_path / "refiner.safetensors")
    with pytest.raises(LiDiTError, match="reads c, and this model has branches for a and b"):
        exchange_refiner(made, weights, tmp_path / "refiner.safetensors")
    causal = replace(made.refiner, full_attention=False)
    with pytest.raises(LiDiTError, match="was made for a model with"):
        exchange_refiner(replace(made, refiner=causal), weights, tmp_path / "refiner.safetensors")


def test_a_file_from_before_a_field_was_there_fits_a_model_without_its_use(tmp_path):
    made = config(("a", 24), ("b", 24))
    checkpoint(tmp_path / "base.safetensors", made, 1)
    save_refiner(tmp_path / "base.safetensors", "b", tmp_path / "new.safetensors")
    tensors, metadata = read_safetensors(tmp_path / "new.safetensors")
    data = json.loads(metadata[REFINER_KEY])
    for field in ("mix", "registers", "registers_kept", "gates"):
        del data["refiner"][field]
    write_safetensors(tmp_path / "old.safetensors", tensors, {REFINER_KEY: json.dumps(data)})
    weights = read_lidit(tmp_path / "base.safetensors")[1]
    changed, merged = exchange_refiner(made, weights, tmp_path / "old.safetensors")
    assert changed == made and merged.keys() == weights.keys()
    with_registers = replace(made, refiner=replace(made.refiner, registers=2))
    with pytest.raises(LiDiTError, match="was made for a model with"):
        exchange_refiner(with_registers, weights, tmp_path / "old.safetensors")


def test_a_refiner_carries_registers_and_several_layers(tmp_path):
    made = config(("a", 24), ("b", 24))
    specs = (made.llms[0], replace(made.llms[1], block=(-3, -6)))
    made = replace(made, llms=specs, refiner=replace(made.refiner, registers=2, mix="routed"))
    checkpoint(tmp_path / "base.safetensors", made, 1)
    checkpoint(tmp_path / "donor.safetensors", made, 2)
    save_refiner(tmp_path / "donor.safetensors", "b", tmp_path / "b.safetensors")
    weights, donor = (read_lidit(tmp_path / f"{n}.safetensors")[1] for n in ("base", "donor"))
    changed, merged = exchange_refiner(made, weights, tmp_path / "b.safetensors")
    assert changed.llms[1].block == (-3, -6)
    of_b = [k for k in merged if ".linguistic.1." in k]
    assert any("taps.routes" in k for k in of_b) and any("registers" in k for k in of_b)
    assert all(torch.equal(merged[k], donor[k]) for k in of_b)
