"""Prompts encoded before cost nothing. Run: pytest tests/core/text/test_cache.py"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_llm import save_llm

from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
from lidit_core.text.cache import (
    MEMORY,
    DiskCache,
    PromptStates,
    StateCache,
    StateCaches,
    states_key,
)
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.notes import prompt_notes
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.templates import InstructionTemplate

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny-llama")


@pytest.fixture(autouse=True)
def nothing_remembered():
    MEMORY.clear()


def states(tokens: int = 4, fill: float = 1.0) -> PromptStates:
    roles = torch.full((tokens,), 2, dtype=torch.int32)
    counts = tokens - 1, tokens + 5, 256
    return PromptStates(torch.full((tokens, 8), fill), roles, (1, tokens), *counts)


def test_memory_is_bounded_and_drops_the_least_recently_used():
    cache = StateCache(max_bytes=3 * states().bytes)
    for key in "abc":
        cache.put(key, states())
    assert cache.get("a") is not None
    cache.put("d", states())
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    cache.put("a", states())  # again: its bytes count once
    assert cache.bytes == 3 * states().bytes
    cache.put("huge", states(1000))
    assert cache.get("huge") is None and cache.bytes == 0


def test_what_is_written_into_states_is_not_found_in_the_caches(llama, tmp_path):
    encoder = PromptEncoder(llama, "short", disk_cache=tmp_path)
    first, again = encoder.encode_rows(["a red cat", "a red cat"])
    kept = first.hidden.clone(), first.roles.clone()
    for row in (first, *encoder.encode_rows(["a red cat"])):
        row.hidden.zero_()
        row.roles.zero_()
    for row in (again, *encoder.encode_rows(["a red cat"])):
        assert torch.equal(row.hidden, kept[0]) and torch.equal(row.roles, kept[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_depends_on_its_own_prompt_alone(llama, dtype):
    """Not on those that were asked for with it, through the caches or without."""
    texts = ["a red cat", "three yellow bananas left of a big car on a blue background", "a"]
    together = PromptEncoder(llama, "short", dtype=dtype).encode_rows(texts)
    for text, row in zip(texts, together):
        MEMORY.clear()
        (alone,) = PromptEncoder(llama, "short", dtype=dtype).encode_rows([text])
        assert torch.equal(alone.hidden, row.hidden)


def test_disk_gives_back_what_it_was_given(tmp_path):
    disk = DiskCache(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        put = states(5, 1.5)
        put = replace(put, hidden=put.hidden.to(dtype))
        disk.put("ab12", put)
        got = DiskCache(tmp_path).get("ab12")
        assert torch.equal(got.hidden, put.hidden) and torch.equal(got.roles, put.roles)
        assert got.hidden.dtype == dtype
        assert (got.span, got.used, got.total, got.budget) == ((1, 5), 4, 10, 256)
    assert disk.get("cd34") is None
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]


def test_damaged_file_is_computed_again(tmp_path, caplog):
    disk = DiskCache(tmp_path)
    disk.put("ab12", states())
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    assert disk.get("ab12") is None and "damaged" in caplog.text
    assert not path.exists()


def test_disk_is_bounded(tmp_path):
    disk = DiskCache(tmp_path, max_bytes=4000)
    for number in range(20):
        disk.put(f"{number:04}", states())
        path = tmp_path / f"{number:04}"[:2] / f"{number:04}.safetensors"
        os.utime(path, (number, number))
    left = sorted(path.stem for path in tmp_path.rglob("*.safetensors"))
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    assert len(left) < 20 and left[-1] == "0019" and sum(sizes) <= 4000 + sizes[0]


def test_leftovers_go_and_what_others_remove_meanwhile_is_no_error(tmp_path, monkeypatch):
    disk = DiskCache(tmp_path, max_bytes=4000)
    disk.put("ab12", states())
    old, young = tmp_path / "ab" / ".x.1.part", tmp_path / "ab" / ".y.2.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    (tmp_path / "ab" / "gone.safetensors").symlink_to(tmp_path / "removed by another process")
    for number in range(20):
        disk.put(f"{number:04}", states())
    assert young.exists() and not old.exists()


def test_states_that_cannot_be_kept_are_not_lost(llama, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file")
    encoder = PromptEncoder(llama, "short", disk_cache=tmp_path / "taken")
    assert len(encoder.encode(["two bees"])) == 1
    assert "are not kept" in caplog.text and "taken" in caplog.text


def test_repeated_prompt_does_not_load_the_llm(llama, tmp_path):
    first = PromptEncoder(llama, "short", disk_cache=tmp_path)
    fresh = first.encode(["two bees", "a cat"])
    assert first.loaded
    again = PromptEncoder(llama, "short")  # from memory
    assert torch.equal(again.encode(["two bees", "a cat"]).hidden, fresh.hidden)
    assert not again.loaded
    MEMORY.clear()
    other = PromptEncoder(llama, "short", disk_cache=tmp_path)  # from disk
    assert torch.equal(other.encode(["two bees", "a cat"]).hidden, fresh.hidden)
    assert not other.loaded
    other.encode(["two dogs"])
    assert other.loaded
    assert other.encode_rows(["two dogs"])[0].cached


def test_a_new_process_reads_the_disk_without_transformers(llama, tmp_path):
    PromptEncoder(llama, "short", disk_cache=tmp_path).encode(["two bees"])
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from lidit_core.text.prompt_encoder import PromptEncoder\n"
        "encoder = PromptEncoder(sys.argv[2], 'short', disk_cache=sys.argv[3])\n"
        "encoder.encode(['two bees']); print(encoder.encode_rows(['two bees'])[0].cached)\n"
        "assert not encoder.loaded and 'transformers' not in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('comfy')]\n"
    )
    run = [sys.executable, "-c", script, str(ROOT), str(llama), str(tmp_path)]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout == "True\n"


def test_alone_in_a_list_and_cached_are_the_same(llama):
    texts = ["two bees", "a red cat left of two dogs on a blue background", ""]
    together = PromptEncoder(llama, "short").encode(texts)
    alone = []
    for text in texts:
        MEMORY.clear()
        alone.append(PromptEncoder(llama, "short").encode([text]))
    for row, one in enumerate(alone):
        length = one.roles.shape[1]
        assert torch.equal(one.roles[0], together.roles[row, :length])
        assert torch.allclose(one.hidden[0], together.hidden[row, :length], rtol=1e-5, atol=1e-6)
    mixed = PromptEncoder(llama, "short").encode([texts[2], "new", texts[2]])
    assert torch.equal(mixed.hidden[0], mixed.hidden[2])


def test_everything_that_matters_is_in_the_key(llama, tmp_path):
    template = InstructionTemplate("t", instruction="objects:")
    options = {
        "template": template,
        "block": -3,
        "token_budget": 256,
        "dtype": torch.float32,
    }
    changes = {
        "template": [
            InstructionTemplate("t", instruction="objects!"),
            InstructionTemplate("t", instruction="objects:", keep_tail=False),
            InstructionTemplate("t", instruction="objects:", system="You see."),
        ],
        "block": [-2, "all", "differences"],
        "token_budget": [12],
        "dtype": [torch.bfloat16],
    }
    keys = {PromptEncoder(llama, **options).identity()}
    for field, values in changes.items():
        keys |= {PromptEncoder(llama, **{**options, field: value}).identity() for value in values}
    assert len(keys) == 9
    assert PromptEncoder(llama, **options).identity() in keys


def test_changed_llm_is_noticed(tmp_path):
    folder = save_llm(tmp_path / "llm")
    encoder = PromptEncoder(folder, "short")
    before = encoder.encode(["two bees"])
    save_llm(folder, initializer_range=0.3)
    after = encoder.encode(["two bees"])
    assert not torch.allclose(before.hidden, after.hidden, rtol=0.01)


def test_an_llm_of_the_same_names_sizes_and_times_elsewhere_is_another(llama, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy" / llama.name)  # keeps the files' times
    assert PromptEncoder(copy).identity() != PromptEncoder(llama).identity()


def test_commit_of_a_hub_model_is_in_the_key(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = PromptEncoder("hub:me/tiny", "short")
    keys = [encoder.identity()]
    repo = tmp_path / "models--me--tiny"
    (repo / "refs").mkdir(parents=True)
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(llama, repo / "snapshots" / commit)
        (repo / "refs" / "main").write_text(commit)
        keys.append(encoder.identity())
    assert len(set(keys)) == 3 and "b" * 40 in keys[-1]


def test_the_llm_may_belong_to_a_host(llama):
    theirs, opened = LLMEncoder(load_llm(llama, dtype=torch.float32), "short"), []
    options = {"dtype": torch.float32, "open_encoder": lambda: opened.append(1) or theirs}
    hosted = PromptEncoder(llama, "short", **options)
    hosted.encode(["two bees"])
    assert torch.equal(hosted.encode(["two bees"]).hidden, theirs.encode(["two bees"]).hidden)
    assert len(opened) == 1 and not hosted.loaded
    hosted.encode(["a cat"])
    assert len(opened) == 2


def test_how_a_prompt_was_read_comes_with_its_states(llama):
    encoder = PromptEncoder(llama, "short", token_budget=4, dtype=torch.float32)
    prompt = "a red (cat:1.3) left of two dogs"
    (states,) = encoder.encode_rows([prompt])
    assert not states.cached and states.used <= 4 < states.total and states.budget == 4
    assert states.span[1] - states.span[0] == states.used <= len(states.roles)
    assert states.hidden.shape[1] == 32 and states.hidden.dtype == torch.float32
    notes = prompt_notes(prompt, states)
    assert len(notes) == 2 and str(states.total) in notes[0]
    assert encoder.encode_rows([prompt])[0].cached
    assert prompt_notes("", *encoder.encode_rows([""])) == ()


def test_a_prompt_asks_once_which_llm_reads_it(llama, monkeypatch):
    """Its files are looked at for every prompt: twice where the LLM is loaded meanwhile."""
    encoder, asked = PromptEncoder(llama, "short"), []
    identity = encoder.identity
    monkeypatch.setattr(encoder, "identity", lambda: asked.append(1) or identity())
    encoder.encode(["two bees"])
    assert len(asked) == 2
    encoder.encode(["two bees"])
    assert len(asked) == 3


def test_the_budget_is_what_the_llm_can_read(tmp_path):
    """A short context leaves less than the budget that was asked for."""
    folder = save_llm(tmp_path / "short", max_position_embeddings=40)
    encoder = PromptEncoder(folder, "short", token_budget=256)
    (states,) = encoder.encode_rows(["a red cat left of two dogs and " * 9])
    assert states.budget == states.used < states.total and len(states.roles) <= 40


def test_no_such_llm_leaves_the_rest_usable(llama):
    broken = PromptEncoder("nobody/nothing", "short")
    for _ in range(2):
        with pytest.raises(LiDiTError, match="nobody/nothing"):
            broken.encode(["a cat"])
    assert len(PromptEncoder(llama, "short").encode(["a cat"])) == 1


def test_identity_is_plain_json(llama):
    assert str(llama) not in json.dumps(json.loads(PromptEncoder(llama).identity()))


def test_what_memory_knows_gets_to_the_disk(llama, tmp_path):
    PromptEncoder(llama, "short").encode(["two bees"])
    PromptEncoder(llama, "short", disk_cache=tmp_path).encode(["two bees"])
    MEMORY.clear()
    later = PromptEncoder(llama, "short", disk_cache=tmp_path)
    assert later.encode_rows(["two bees"])[0].cached and not later.loaded


def test_keys_and_files_of_states_stay_what_they_were(tmp_path):
    """Caches of many gigabytes are in use; where this fails, raise STATES_VERSION and say so."""
    assert states_key("an LLM\0bf16", "two bees").startswith("a28d9f64fde9a4b6")
    assert states_key("an LLM", "\ud800").startswith("6a8fe8bb7edf36c3")
    states = PromptStates(torch.ones(2, 3), torch.ones(2, dtype=torch.int32), (0, 2), 2, 3, 4)
    DiskCache(tmp_path).put("ab12", states)
    digest = hashlib.sha256((tmp_path / "ab" / "ab12.safetensors").read_bytes()).hexdigest()
    assert digest.startswith("05086c8b0cdebaee")


def test_states_in_one_cache_are_put_into_the_other_and_computed_once(tmp_path):
    asked = []

    def compute(prompts):
        asked.extend(prompts)
        return [PromptStates(torch.ones(2, 3), torch.ones(2), (0, 2), 2, 2, 4) for _ in prompts]

    disk, memory = DiskCache(tmp_path), StateCache()
    for caches in (StateCaches(None, disk), StateCaches(memory, disk), StateCaches(memory, None)):
        rows = caches.states(["one", "two", "one"], lambda: "an LLM", compute)
        assert len(rows) == 3 and torch.equal(rows[0].hidden, torch.ones(2, 3))
    assert asked == ["one", "two"] and rows[0].cached
    StateCaches(None, None).states(["one"], lambda: "an LLM", compute)
    assert asked == ["one", "two", "one"]
