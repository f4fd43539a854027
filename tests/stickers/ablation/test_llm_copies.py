"""LLMs that know less than what they are copies of.

Run: pytest tests/stickers/ablation/test_llm_copies.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_llm import save_encoder, save_llm

from lidit_core.cli import main as lidit
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors
from lidit_core.llm.loading import load_llm
from lidit_core.text.encoder import LLMEncoder
from lidit_stickers import llm_copies
from lidit_stickers.ablation.recipes import fork_recipe
from lidit_stickers.ablation.variants import read_ablation
from lidit_stickers.llm_copies import COPIED, COPIES, RANDOM, main, write_lesser
from lidit_stickers.probe.readings import READINGS
from lidit_train.tasks.task import open_task

SHIPPED = Path(__file__).resolve().parents[3] / "recipes" / "ablate-readings.yaml"
TURNED = ["a red cat red", "a cat red red"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in read_safetensors(file)[0].items()}


@pytest.fixture(params=["1GB", "10KB"], ids=["one-file", "shards"])
def llm(tmp_path, request) -> Path:
    return save_llm(tmp_path / "llm", shard=request.param)


def copied(llm: Path, name: str, folder: str = "copy") -> Path:
    write_lesser(name, str(llm), llm.parent / folder)
    return llm.parent / folder


def test_a_random_llm_has_the_others_sizes_and_norms(llm):
    one, same = (weights(copied(llm, RANDOM, name)) for name in ("one", "same"))
    known = weights(llm)
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in known.items()}
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name, tensor in known.items():
        assert torch.equal(one[name], tensor) == (tensor.ndim < 2)
    square = [tensor for tensor in one.values() if tensor.shape == (32, 32)]
    assert len({tensor.sum().item() for tensor in square}) == len(square) > 2  # each by itself


def states(folder: Path) -> list[torch.Tensor]:
    rows = LLMEncoder(load_llm(folder, 1, torch.float32), "none").encode_rows(TURNED)
    return [row.hidden for row in rows]


def test_an_idle_blocks_states_are_the_embeddings(llm):
    folder = copied(llm, "smollm2-embeddings")
    loaded = load_llm(llm, 1, torch.float32)
    table = loaded.module.get_input_embeddings().weight
    for text, found in zip(TURNED, states(folder)):
        ids = loaded.tokenizer(text).input_ids
        assert torch.equal(found[-len(ids) :], table[ids])
    one, other = states(llm)
    assert not torch.allclose(one.sum(0), other.sum(0), atol=1e-3)  # the LLM itself knows order


def test_random_tokens_tell_which_words_there_are_and_no_order(llm):
    one, other = states(copied(llm, "smollm2-tokens"))
    torch.testing.assert_close(one.sum(0), other.sum(0))
    assert not one.equal(other)
    known = states(copied(llm, "smollm2-embeddings", "known"))[0]
    assert not torch.allclose(one, known, atol=0.1)


def test_a_first_block_of_other_names_is_told_and_nothing_written(tmp_path):
    folder = save_encoder(tmp_path / "llm")
    with pytest.raises(LiDiTError, match="adds to its input by no weight known here; expected"):
        write_lesser("smollm2-tokens", str(folder), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_command_writes_all_once(llm, monkeypatch):
    monkeypatch.setattr(llm_copies, "COPIED", str(llm))
    folder = llm.parent / "llms"
    main(["--out", str(folder)])
    files = sorted(folder.glob("*/config.json"))
    assert [file.parent.name for file in files] == sorted(COPIES)
    times = [file.stat().st_mtime_ns for file in files]
    main(["--out", str(folder)])
    assert [file.stat().st_mtime_ns for file in files] == times


def test_the_shipped_file_has_the_probes_readings(capsys):
    """Each of the same LLM at the same block, but for what no block of it is; no refiner."""
    told, whole = read_ablation(SHIPPED), read_ablation(SHIPPED.with_name("ablate.yaml"))
    assert told.names == tuple(reading.name for reading in READINGS)
    assert told.fork == whole.fork and told.seeds == whole.seeds
    for variant, probed in zip(told.variants, READINGS):
        (read,) = told.specs(variant)
        assert variant.refiner.blocks == 0 and read.template.layout == "{prompt}"
        if read.name in COPIES and read.name != RANDOM:
            assert read.block == 1 and probed.llm in ("", COPIED)
        else:
            assert (read.name, read.block) == (probed.llm, probed.block)
        open_task(fork_recipe(told, variant, 0, "stickers", Path("."))).check_files()
    same = {"block-minus-3": "plain-none", "minilm": "minilm-none"}
    for name, other in same.items():  # as its head says
        one, known = (
            fork_recipe(each, each.variants[each.names.index(n)], 0, "stickers", Path("."))
            for each, n in ((told, name), (whole, other))
        )
        assert one == known
    assert lidit(["ablate", "--print-plan", str(SHIPPED)]) == 0
    assert "18 runs of 48,000 images (9 variants, 2 seeds)" in capsys.readouterr().out
