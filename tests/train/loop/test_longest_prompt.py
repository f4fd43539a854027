"""The longest prompt of a training is recorded.

Run: pytest tests/train/loop/test_longest_prompt.py
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
from processes import together
from tiny_adapter_training import adapter_recipe
from tiny_adapter_training import make_world as adapter_world
from tiny_lidit import lidit_config
from tiny_training import fields, make_world, recipe_of, spec, write_recipe

from lidit_core.checkpoints.lidit import read_config, read_lidit, save_lidit
from lidit_core.checkpoints.lora import LONGEST, read_lora
from lidit_core.errors import LiDiTError
from lidit_core.llmdiff.file import read_adapter_config
from lidit_core.model.config import LiDiTConfig
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.spec import LLMSpec
from lidit_train.loop.longest_prompt import LongestPrompts, recorded
from lidit_train.recipe_file import read_recipe
from lidit_train.run import train

LONG = "a cat and two dogs and three red apples on a blue sea"  # within the budget of 24 tokens


def tokens(llm: str, text: str) -> int:
    """Of a caption, as its LLM reads it."""
    return PromptEncoder(llm, "short", token_budget=24).encode_rows([text])[0].used


def captions(folder) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.txt"))]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures with short captions, others with a long one among them, and two LLMs."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder, "one", "two")
    longer = shutil.copytree(folder / "pictures", folder / "longer")
    (longer / "05.txt").write_text(LONG)
    return folder, llms


def source(folder, name: str, **more) -> dict:
    return {"sources": [{"kind": "folder", "path": str(folder / name)}], **more}


def run(world, out: str, *names: str, **changes):
    """The file that a run ends in."""
    folder, llms = world
    recipe = recipe_of(folder, *(names or ("one",)), **changes)
    return train(recipe, folder / out, "cpu", llms)


def going_on(world, base, out: str, *names: str, **changes):
    """The same for a run that begins with the weights of a file."""
    folder, llms = world
    changed = {"llms": [spec(name) for name in names]} if names else {}
    model = {"preset": "", "checkpoint": str(base), "changes": changed}
    recipe = read_recipe(write_recipe(folder, fields(folder, "one", model=model, **changes)))
    return train(recipe, folder / out, "cpu", llms)


def longest(path) -> list[int | None]:
    return [llm.longest_prompt for llm in read_config(path).llms]


@pytest.fixture(scope="module")
def lengths(world) -> tuple[int, int]:
    """Tokens of the longest caption of both sets of pictures."""
    folder, llms = world
    short = max(tokens(llms["one"], text) for text in captions(folder / "pictures"))
    assert short < tokens(llms["one"], LONG) < 24
    return short, tokens(llms["one"], LONG)


@pytest.mark.parametrize("cached", [True, False])
def test_a_run_records_the_longest_caption_that_it_trained_on(world, lengths, cached):
    folder, _ = world
    prompts = {"every": 8, "prompts": [LONG], "steps": 1}  # are drawn, not trained on
    caches = {"cache": {"states": cached}, "validation": prompts}
    no_dropout = {"caption_dropout": 0, "text_zeroing": 0}
    short = source(folder, "pictures", **no_dropout)
    long = source(folder, "longer", workers=2, **no_dropout)
    assert longest(run(world, f"short {cached}", data=short, **caches)) == [lengths[0]]
    assert longest(run(world, f"long {cached}", data=long, **caches)) == [lengths[1]]


def test_a_caption_beyond_the_budget_counts_as_far_as_it_is_read(world):
    folder, _ = world
    cut = shutil.copytree(folder / "pictures", folder / "cut")
    (cut / "00.txt").write_text(LONG * 5)
    assert longest(run(world, "cut-run", data=source(folder, "cut"))) == [24]


@pytest.mark.parametrize("fate", ["caption_dropout", "text_zeroing"])
def test_captions_that_are_left_out_do_not_count(world, fate):
    folder, _ = world
    left_out = {"caption_dropout": 0, "text_zeroing": 0, fate: 1}
    assert longest(run(world, fate, data=source(folder, "longer", **left_out))) == [0]


def test_a_run_that_goes_on_keeps_the_larger(world, lengths):
    folder, _ = world
    short, long = source(folder, "pictures"), source(folder, "longer")
    first = run(world, "first-long", data=long)
    assert longest(going_on(world, first, "then-short", data=short)) == [lengths[1]]
    first = run(world, "first-short", data=short)
    assert longest(going_on(world, first, "then-long", data=long)) == [lengths[1]]


def test_a_resumed_run_keeps_what_it_had_seen(world, lengths, caplog):
    folder, llms = world
    run(world, "resumed", data=source(folder, "longer"))
    more = {"stages": [{"images": 48, "batch": 4, "resolution": 32}]}
    more |= {"data": source(folder, "pictures")}
    assert longest(run(world, "resumed", **more)) == [lengths[1]]
    for numbers in (folder / "resumed" / "checkpoints").glob("*/numbers.json"):
        known = json.loads(numbers.read_text())
        assert known.pop("longest_prompts") == {"one": lengths[1]}
        numbers.write_text(json.dumps(known))  # as an older trainer left it
    more["stages"][0]["images"] = 64
    assert longest(run(world, "resumed", **more)) == [None]
    assert "does not say how long the captions were" in caplog.text


def test_what_an_older_checkpoint_has_seen_stays_unknown(world):
    folder, _ = world
    config, weights = read_lidit(run(world, "old", data=source(folder, "pictures")))
    older = json.loads(config.to_json())
    del older["llms"][0]["longest_prompt"]
    config = LiDiTConfig.from_json(json.dumps(older))
    assert config.llms[0].longest_prompt is None
    save_lidit(weights, config, folder / "older.safetensors")
    out = going_on(world, folder / "older.safetensors", "from-older", data=source(folder, "longer"))
    assert longest(out) == [None]


def test_every_branch_has_a_record_of_its_own(world, lengths):
    folder, llms = world
    subsets = [{"branches": [1], "weight": 1.0}]
    stages = [{"images": 32, "batch": 4, "resolution": 32, "subsets": subsets}]
    out = run(world, "second", "one", "two", stages=stages, data=source(folder, "longer"))
    assert longest(out) == [0, tokens(llms["two"], LONG)]
    first = run(world, "base", data=source(folder, "pictures"))
    beside = {"trains": "refiners", "data": source(folder, "longer")}
    added = going_on(world, first, "added", "one", "two", **beside)
    assert longest(added) == [lengths[0], tokens(llms["two"], LONG)], "one's refiner was frozen"
    moved = going_on(world, first, "moved", "two", **{**beside, "data": source(folder, "pictures")})
    assert longest(moved) == [max(tokens(llms["two"], t) for t in captions(folder / "pictures"))]


def test_a_written_out_llm_is_the_same_llm(world, lengths):
    """``changes.llms`` writes an LLM without its record: the branch goes on, and so does that."""
    folder, _ = world
    first = run(world, "named", data=source(folder, "longer"))
    out = going_on(world, first, "named-on", "one", data=source(folder, "pictures"))
    assert longest(out) == [lengths[1]]


def test_a_lora_records_its_own_run(world, lengths):
    folder, _ = world
    first = run(world, "lora-base", data=source(folder, "longer"))
    lora = {"trains": "lora", "lora": {"rank": 2}, "data": source(folder, "pictures")}
    out = going_on(world, first, "lora", **lora)
    assert read_lora(out).about[LONGEST] == {"one": lengths[0]}


def test_an_adapter_records_it(tmp_path):
    pytest.importorskip("diffusers")
    world = adapter_world(tmp_path)
    (world / "pictures" / "05.txt").write_text(LONG)
    out = train(adapter_recipe(world), world / "adapter", "cpu")
    spec = read_adapter_config(out).llm
    read = PromptEncoder(str(world / "llm"), spec.template, "all", spec.token_budget)
    assert spec.longest_prompt == read.encode_rows([LONG])[0].used > 0


GATHER = """
from lidit_train.loop.longest_prompt import LongestPrompts
from lidit_train.loop.parallel import accelerator_for
from lidit_train.recipe import Compute
processes = accelerator_for(Compute(precision="float32"), "cpu")
seen, rank = LongestPrompts(["a", "b", "c"]), processes.process_index
seen.see({0: [3 + 5 * rank, 1]} if rank else {0: [3], 1: [7]})
assert seen.gather(processes) == {"a": 8, "b": 7} == seen.tokens
processes.end_training()  # a process that ends with its group still open may be aborted
"""


def test_the_processes_of_a_run_share_what_they_have_seen():
    together(*[[sys.executable, "-c", GATHER]] * 2)


def test_nothing_is_known_where_one_part_is_not():
    llms = (LLMSpec("a", 8, longest_prompt=5), LLMSpec("b", 8))
    kinds = {
        "longer": ({"a": 9, "b": 9}, [9, None]),
        "shorter": ({"a": 2}, [5, None]),
        "unknown": (None, [None, None]),
    }
    for seen, wanted in kinds.values():
        assert [spec.longest_prompt for spec in recorded(llms, seen)] == wanted
    assert [s.longest_prompt for s in recorded(llms, {"a": 9, "b": 9}, {1})] == [5, None]
    counts = LongestPrompts(["a"])
    counts.take_up(None)
    counts.see({0: [4]})
    assert counts.tokens is None


@pytest.mark.parametrize("known", [None, 0, 22])
def test_the_note_begins_right_after_the_longest(known):
    spec = LLMSpec("a", 8, longest_prompt=known)
    assert spec.length_note(known or 0) == ""
    note = spec.length_note((known or 0) + 1)
    assert bool(note) == (known is not None)
    if known:
        assert "23 tokens are read by a" in note and "at most 22;" in note and "shorten" in note


def test_a_record_survives_the_file_and_a_wrong_one_is_refused():
    config = lidit_config("a")
    config = replace(config, llms=(replace(config.llms[0], longest_prompt=7),))
    assert LiDiTConfig.from_json(config.to_json()) == config
    with pytest.raises(LiDiTError, match="longest_prompt=-1; expected 0 or more"):
        replace(config.llms[0], longest_prompt=-1)
    wrong = json.loads(config.to_json())
    wrong["llms"][0]["longest_prompt"] = "7"
    with pytest.raises(LiDiTError, match="longest_prompt is '7'; expected int"):
        LiDiTConfig.from_json(json.dumps(wrong))
