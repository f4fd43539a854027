"""Projections of the ClipProj format. Run: pytest tests/core/bridge/test_clipproj.py"""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_bridge import spec, students

from lidit_core.bridge.clipproj import TAGS, is_clipproj, load_clipproj, projected
from lidit_core.errors import LiDiTError

READ, WRITTEN, HIDDEN = 24, 20, 36


def tensors(depth: int = 0, sink: bool = False) -> dict[str, torch.Tensor]:
    """Random numbers in the format's names; an MLP as torch's Sequential numbers it."""
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    made = {"W": drawn(READ, WRITTEN), "mean_in": drawn(READ), "std_in": drawn(READ).abs() + 0.5}
    made |= {"mean_out": drawn(WRITTEN), "std_out": drawn(WRITTEN).abs() + 0.5}
    widths = [READ, *[HIDDEN] * depth, WRITTEN] if depth else []
    for n, (read, written) in enumerate(zip(widths, widths[1:])):
        made |= {f"mlp.{2 * n}.weight": drawn(written, read), f"mlp.{2 * n}.bias": drawn(written)}
    return {**made, "sink_out": drawn(WRITTEN)} if sink else made


def reference(t: dict[str, torch.Tensor], h: torch.Tensor) -> torch.Tensor:
    """What the format's contract says, written out."""
    x = (h - t["mean_in"]) / t["std_in"]
    y, correction = x @ t["W"] if "W" in t else 0, x
    places = sorted({int(n.split(".")[1]) for n in t if n.startswith("mlp.")})
    for n in places:
        correction = F.gelu(correction) if n else correction
        correction = correction @ t[f"mlp.{n}.weight"].T + t[f"mlp.{n}.bias"]
    y = (y + correction if places else y) * t["std_out"] + t["mean_out"]
    if "sink_out" in t:
        y[:, 0] = t["sink_out"]
    return y


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *((name, False) for name in ("qwen3vl_4b_fp8_scaled", "Qwen/Qwen3-VL-4B-Instruct", "")),
        *((name, True) for name in ("Llama-3.2-3B", "Qwen3-4B")),
    ],
)
def test_another_llm_of_that_width_is_told_where_the_file_names_one(tmp_path, name, told):
    for source in ("org/Qwen3-VL-4B", None):
        about = {"tap": "7", **({"source_model": source} if source else {})}
        save_file(tensors(), tmp_path / "p.safetensors", about)
        found = load_clipproj(tmp_path / "p.safetensors").name_note(name)
        assert bool(found) == (told and source is not None)
        assert not found or f"made for {source}, and {name} reads here" in found


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize(
    ("depth", "ridge"), [(0, True), (1, True), (3, True), (1, False), (3, False)]
)
def test_it_gives_what_the_contract_says(tmp_path, depth, ridge, sink):
    made, told = tensors(depth, sink), {"tap": "7", "source_model": "Qwen3-VL-4B", "cos_test": "1"}
    if not ridge:  # as in the files that are called -mlp since version 0.1.13
        del made["W"]
    save_file(made, tmp_path / "p.safetensors", told)
    loaded = load_clipproj(tmp_path / "p.safetensors")
    assert (loaded.llm.name, loaded.llm.width, loaded.llm.block) == ("Qwen3-VL-4B", READ, 7)
    assert loaded.llm.template.name == "none" and loaded.width == WRITTEN
    tokens = students(["a red cat"], spec(width=READ))
    rows, values = projected(loaded, tokens)
    assert torch.allclose(rows, reference(made, tokens.states.hidden), atol=1e-4)
    assert values[TAGS].tolist() == [1] * rows.shape[1]


def _without(name):
    return lambda made, told: made.pop(name)


def _without_both(made, told):
    for name in list(made):
        if name == "W" or name.startswith("mlp."):
            del made[name]


def _as(name, tensor):
    return lambda made, told: made.__setitem__(name, tensor)


MISTAKES = {
    "lacks std_out and is no ClipProj": _without("std_out"),
    "lacks both W and mlp.N.weight and is no ClipProj": _without_both,
    "has std_out of shape (20,); expected numbers (3,)": _as("mean_out", torch.ones(3)),
    "has mean_in of shape (1, 24); expected numbers (24,)": _as("mean_in", torch.ones(1, READ)),
    "has W of shape (20, 24); expected numbers (24, 20)": _as("W", torch.ones(WRITTEN, READ)),
    "has sink_out of shape (3,); expected numbers (20,)": _as("sink_out", torch.ones(3)),
    "not finite in ['W']": _as("W", torch.full((READ, WRITTEN), torch.nan)),
    "a std_in of 0": _as("std_in", torch.zeros(READ)),
    "has tap=''; expected the number": lambda made, told: told.pop("tap"),
    "has tap='-1'; expected the number": lambda made, told: told.update(tap="-1"),
    "has mlp.2.weight of shape": _as("mlp.2.weight", torch.ones(WRITTEN, 5)),
    "has an MLP of mlp.0.bias, mlp.0.weight": _as("mlp.x.weight", torch.ones(2, 2)),
    "has mlp.2 of 7 numbers; expected 20": lambda made, told: made.update(
        {"mlp.2.weight": torch.ones(7, HIDDEN), "mlp.2.bias": torch.ones(7)}
    ),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_file_that_is_not_whole_is_told(tmp_path, sentence):
    made, told = tensors(1), {"tap": "7"}
    MISTAKES[sentence](made, told)
    save_file(made, tmp_path / "p.safetensors", told)
    with pytest.raises(LiDiTError, match=re.escape(sentence)):
        load_clipproj(tmp_path / "p.safetensors")


@pytest.mark.parametrize("name", ["p.pt", "P.PT"])
def test_files_that_can_run_code_are_refused_unopened(tmp_path, name):
    with pytest.raises(LiDiTError, match="can run code"):
        load_clipproj(tmp_path / name)  # which is not there


def test_other_files_are_told_apart():
    whole = tensors(1)
    assert is_clipproj(tensors()) and is_clipproj(
        {name: whole[name] for name in whole if name != "W"}
    )
    assert not is_clipproj({"base.text": 0, "W": 0})
