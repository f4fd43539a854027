"""Files of bridges and teachers, and conditioning. Run: pytest tests/core/bridge"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bridge import CLIP, PROMPTS, config, maker, randomised, rows, spec, students
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.bridge.encode import conditioning
from lidit_core.bridge.file import (
    BRIDGE_KEY,
    LoadedBridge,
    load_bridge,
    read_bridge_config,
    write_bridge,
)
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import stack_rows
from lidit_core.bridge.teacher import Teacher, read_teacher, seeds_of, write_teacher
from lidit_core.cli import main, record
from lidit_core.demo.checkpoint import read_text_encoder
from lidit_core.errors import LiDiTError
from lidit_core.io.recording import open_recording
from lidit_core.io.tensors import read_safetensors
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.text.emphasis import read_emphasis

LONG = "a red cat left of two dogs on a blue background above a car and an apple"


def empty_entry(masked: bool = True):
    generator = torch.Generator().manual_seed(9)
    sequence = torch.randn(1, 16, 20, generator=generator).to(torch.bfloat16)
    values = {"pooled_output": torch.randn(1, 6, generator=generator).to(torch.bfloat16)}
    if masked:
        values["attention_mask"] = torch.tensor([[1] * 2 + [0] * 14])
    return sequence, {**values, "guidance": 3.5, "nested": {"a": [torch.ones(2), "x"]}}


def loaded(**changes) -> LoadedBridge:
    bridge = randomised(Bridge(config(**changes)))
    return LoadedBridge(bridge, maker(), empty_entry(), json.dumps({"cosine": 0.5}))


SEEDED = torch.zeros(420, 128, dtype=torch.bfloat16)
CASES = [
    {},
    {"residual": "mlp"},
    {"residual": "none"},
    {"seeds": "trained"},
    {"seeds": "none", "pooled": 0},
]


@pytest.mark.parametrize("changes", CASES)
def test_a_bridge_comes_back_as_it_was_written(tmp_path, changes):
    ours = loaded(**changes)
    if changes.get("pooled") == 0:
        ours = replace(ours, empty=(ours.empty[0], {}))
    write_bridge(tmp_path / "b.safetensors", ours)
    read = load_bridge(tmp_path / "b.safetensors")
    assert (
        read.bridge.config == ours.bridge.config == read_bridge_config(tmp_path / "b.safetensors")
    )
    for name, tensor in ours.bridge.state_dict().items():
        assert torch.equal(read.bridge.state_dict()[name], tensor), name
    assert read.report == ours.report
    for prompt in ("", *PROMPTS):
        assert torch.equal(read.rows(prompt).ids, ours.rows(prompt).ids)
        pair = [conditioning(one, prompt, [students([prompt or " "])]) for one in (ours, read)]
        assert torch.equal(pair[0][0], pair[1][0])
        assert set(pair[0][1]) == set(pair[1][1])


def test_two_files_of_one_bridge_are_the_same_bytes(tmp_path):
    for name in ("1", "2"):
        write_bridge(tmp_path / name, loaded())
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_the_empty_prompt_is_the_teachers_bit_for_bit(tmp_path):
    write_bridge(tmp_path / "b", loaded())
    sequence, values = conditioning(load_bridge(tmp_path / "b"), "", [students([" "])])
    kept, own = empty_entry()
    assert torch.equal(sequence.view(torch.int16), kept.view(torch.int16))
    assert torch.equal(values["pooled_output"], own["pooled_output"])
    assert torch.equal(values["attention_mask"], own["attention_mask"])
    assert values["guidance"] == 3.5 and torch.equal(values["nested"]["a"][0], torch.ones(2))


def test_pooled_mask_and_what_else_there_is(tmp_path):
    ours = loaded()
    for prompt in (PROMPTS[0], LONG):
        sequence, values = conditioning(ours, prompt, [students([prompt])])
        given = rows([prompt])
        assert sequence.shape == (1, given.ids.shape[1], 20) and sequence.dtype == torch.bfloat16
        assert values["pooled_output"].shape == (1, 6)
        assert not torch.equal(values["pooled_output"], empty_entry()[1]["pooled_output"])
        assert values["attention_mask"].sum() == (given.kinds != 2).sum()
        assert values["guidance"] == 3.5
    assert sequence.shape[1] > CLIP.window


def test_rows_that_never_vary_are_constants(tmp_path):
    ours = loaded()
    base = ours.bridge.base
    base.fixed[0] = 1
    expected = base.restored(base.constants[0], None).to(torch.bfloat16)
    for prompt in PROMPTS:
        sequence, _ = conditioning(ours, prompt, [students([prompt])])
        assert torch.equal(sequence[0, 0], expected)
        assert not torch.equal(sequence[0, 1], expected)


def test_conditioning_is_the_prediction_in_the_teachers_own_space():
    ours = loaded(residual="none")
    tokens, given = students([PROMPTS[0]]), rows([PROMPTS[0]])
    out, base = ours.bridge([tokens], given), ours.bridge.base
    sequence, values = conditioning(ours, PROMPTS[0], [tokens])
    assert torch.equal(sequence, (out.sequence * base.deviation + base.mean).to(torch.bfloat16))
    pooled = out.pooled * base.pooled_deviation + base.pooled_mean
    assert torch.equal(values["pooled_output"], pooled.to(torch.bfloat16))


def test_a_weight_draws_its_rows_away_from_the_empty_prompts(tmp_path):
    """In the host's form: (row - empty) * weight + empty; other rows keep their bits."""
    ours, text = loaded(), PROMPTS[0]  # a red cat left of two dogs
    read = read_emphasis("a (red cat:1.5) left of two dogs")
    assert read.text == text
    plain, values = conditioning(ours, replace(read, weights=()), [students([text])])
    weighted, others = conditioning(ours, read, [students([text])])
    given, empty = stack_rows([maker()(text, read.pieces)]), empty_entry()[0].float()
    inside = (given.spans[0, :, 0] >= 2) & (given.spans[0, :, 1] <= 9) & (given.kinds[0] == 0)
    expected = (plain.float() - empty) * 1.5 + empty
    assert 0 < int(inside.sum()) < int((given.kinds == 0).sum())
    assert torch.allclose(weighted[0, inside].float(), expected[0, inside], atol=0.1, rtol=0.02)
    assert torch.equal(weighted[0, ~inside], plain[0, ~inside])
    assert torch.equal(values["pooled_output"], others["pooled_output"])
    long = read_emphasis("(a red cat:0.5) " * 8)  # several chunks: each against the same empty rows
    assert conditioning(ours, long, [students([long.text])])[0].shape[1] > CLIP.window


def damaged(path: Path, change) -> Path:
    tensors, metadata = read_safetensors(path)
    tensors = {k: v.clone() for k, v in tensors.items()}
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def _set(**fields):
    def change(tensors, metadata):
        told = json.loads(metadata[BRIDGE_KEY])
        for name, value in fields.items():
            (told["teacher"] if name in told["teacher"] else told)[name] = value
        metadata[BRIDGE_KEY] = json.dumps(told)

    return change


def _without(name: str):
    return lambda tensors, metadata: tensors.pop(name)


def _bytes(tensors, metadata):
    tensors["tokenizer"] = torch.zeros(9, dtype=torch.uint8)


def _other_empty(tensors, metadata):
    tensors["empty"] = torch.zeros(1, 3, 20)


DAMAGES = [
    (_set(blocks=10_000_000), "asks for 10000000 of resampler.blocks.N"),
    (_set(width=64), "misshapen"),
    (_set(vocabulary=10**9), "misshapen"),
    (_set(residual="mlp"), "does not fit its configuration"),
    (_set(unknown=1), "unknown"),
    (_without("base.text"), "does not fit its configuration"),
    (_without("resampler.blocks.1.overlap.beta"), "1 missing"),
    (_without("tokenizer"), "lacks its tokenizer"),
    (_bytes, "is damaged"),
    (_without("empty"), "is damaged"),
    (_other_empty, "keeps the empty prompt as"),
    (lambda tensors, metadata: metadata.pop(BRIDGE_KEY), "is no bridge"),
    (lambda tensors, metadata: metadata.update(empty="{"), "is damaged"),
]


@pytest.mark.parametrize(("change", "sentence"), DAMAGES)
def test_damaged_files_are_told_in_a_sentence(tmp_path, change, sentence):
    path = tmp_path / "b.safetensors"
    write_bridge(path, loaded())
    with pytest.raises(LiDiTError, match=sentence) as told:
        load_bridge(damaged(path, change))
    assert "\n" not in str(told.value)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    ours = loaded()
    ours.bridge.resampler.out.weight.data[0, 0] = float("nan")
    with pytest.raises(LiDiTError, match="not finite"):
        write_bridge(tmp_path / "b", ours)
    assert not (tmp_path / "b").exists()


def test_seeds_are_the_principal_components_of_the_table():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(500, 6, generator=generator) @ torch.diag(
        torch.tensor([9.0, 5, 3, 1, 0, 0])
    )
    seeds = seeds_of(table + 7).float()
    assert seeds.shape == (500, 128) and seeds[:, 6:].abs().max() == 0
    assert seeds.square().sum(1).mean() == pytest.approx(128, rel=0.02)
    norms = seeds.norm(dim=0)
    assert (norms[:4].diff() < 0).all() and norms[4:].max() < 1e-2 * norms[0]
    distances = torch.cdist(table, table).flatten()
    assert (
        torch.corrcoef(torch.stack([distances, torch.cdist(seeds, seeds).flatten()]))[0, 1] > 0.999
    )
    with pytest.raises(LiDiTError, match="expected finite numbers"):
        seeds_of(table.log())


def test_a_teacher_comes_back_and_a_folder_without_one_is_told(tmp_path):
    ours = Teacher(config().teacher, maker(), seeds_of(torch.randn(420, 9)))
    write_teacher(tmp_path, ours)
    read = read_teacher(tmp_path)
    assert read.spec == ours.spec and torch.equal(read.seeds, ours.seeds)
    assert torch.equal(read.rows(LONG).ids, ours.rows(LONG).ids)
    path = tmp_path / "teacher.safetensors"
    tensors, metadata = load_file(path), read_safetensors(path)[1]
    save_file({**tensors, "seeds": tensors["seeds"][1:].clone()}, path, metadata)
    with pytest.raises(LiDiTError, match=r"expected seeds \(420, 128\)"):
        read_teacher(tmp_path)
    with pytest.raises(LiDiTError, match="teacher.safetensors is missing"):
        read_teacher(tmp_path / "none")


def test_what_a_host_says_of_its_encoder_comes_back(tmp_path):
    """The empty prompt as exact as it was given, and the prompts that are more than text."""
    sequence, values = empty_entry()
    exact = (sequence.float() + 1e-6, values)
    teacher = Teacher(replace(config().teacher, weights=True), maker(), SEEDED, exact, (1, 4))
    write_teacher(tmp_path, teacher)
    read = read_teacher(tmp_path)
    assert read.spec.weights and read.unread == (1, 4) and read.empty is not None
    assert torch.equal(read.empty[0], exact[0]) and read.empty[1]["guidance"] == 3.5


def test_components_of_a_large_table_are_those_of_the_whole():
    table = torch.randn(20_000, 140, generator=torch.Generator().manual_seed(3))
    centred = (table - table.mean(0)).double()
    found = seeds_of(table).double()
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:128].T
    expected = expected / (expected.square().sum(1).mean() / 128).sqrt()
    assert torch.allclose(found.abs(), expected.abs(), atol=0.05)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A LI-DiT of two LLMs, and prompts."""
    folder = tmp_path_factory.mktemp("world")
    places = {name: save_llm(folder / name, vocab_size=500) for name in ("first", "second")}
    checkpoint = save_lidit_files(folder, lidit_config("first", "second"))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return folder, checkpoint, places


def test_the_command_of_the_help_records_what_the_llm_makes_of_prompts(world, capsys, tmp_path):
    folder, checkpoint, places = world
    example, _ = re.findall(r"^ +lidit (record .*)$", record.EXAMPLES, re.M)
    given = {
        "prompts.txt": str(folder / "prompts.txt"),
        "stickers-duo": str(checkpoint),
        "gemma-3-270m": f"second={places['second']}",
        "recordings/gemma": str(tmp_path / "r"),
    }
    words = [given.get(word, word) for word in shlex.split(example)]
    for _ in range(2):  # the second goes on with what is there
        assert main(words) == 0
    found, teacher = open_recording(tmp_path / "r"), read_teacher(tmp_path / "r")
    recorded = list(found.prompts())
    assert [prompt.text for prompt in recorded] == list(PROMPTS)
    assert teacher.spec.width == 32 and teacher.spec.name == "second"
    for prompt in recorded:
        ((sequence, _),) = prompt.entries
        assert sequence.shape == (1, len(teacher.rows(prompt.text).ids), 32)


def test_the_demo_checkpoints_own_encoder_is_recorded(world, capsys, tmp_path):
    """By the second example: its rows, by the numbers that words share, and its exact empty one."""
    _, example = re.findall(r"^ +lidit (record .*)$", record.EXAMPLES, re.M)
    given = {"prompts.txt": str(world[0] / "prompts.txt"), "recordings/stickers-sd": str(tmp_path)}
    words = [given.get(word, word) for word in shlex.split(example)]
    assert main(words) == 0
    found, teacher = open_recording(tmp_path), read_teacher(tmp_path)
    own = read_text_encoder(SHIPPED_WEIGHTS / "stickers-sd.safetensors")
    assert torch.equal(teacher.empty[0], own.read([""]))
    for prompt in found.prompts():
        ((sequence, values),) = prompt.entries
        assert torch.equal(sequence, own.read([prompt.text]).to(sequence.dtype)) and not values
        assert teacher.rows(prompt.text).ids.tolist() == own.tokenize(prompt.text)
    assert main([*words, "--llm", "gemma-3-270m"]) == 2
    assert "leave --llm out" in capsys.readouterr().err


def test_a_name_that_the_model_does_not_read_is_told(world, capsys, tmp_path):
    folder, checkpoint, _ = world
    words = [str(folder / "prompts.txt"), "--model", str(checkpoint), "--out", str(tmp_path / "r")]
    assert main(["record", *words, "--llm", "third"]) == 2
    assert "expected one of first, second" in capsys.readouterr().err


def test_a_student_is_named_where_another_came():
    ours = loaded()
    with pytest.raises(LiDiTError, match="trained on student"):
        conditioning(ours, "a cat", [students(["a cat"], spec("x", 12))])
