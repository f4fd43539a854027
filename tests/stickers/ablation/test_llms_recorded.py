"""An ablation knows its LLMs by what they hold.

Run: pytest tests/stickers/ablation/test_llms_recorded.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_ablation import CLAIMS, VARIANTS, ablate, make_ablation_world, tiny, written
from tiny_llm import save_llm

from lidit_core.llm.hashes import llm_hashes, read_hashes
from lidit_stickers.ablation.asked import ASKED
from lidit_stickers.ablation.halves import CHINESE, write_half

TWO = {"seeds": [0], "variants": VARIANTS[:2], "claims": CLAIMS[:1], "score": {"every": 0}}


@pytest.fixture
def world(tmp_path) -> Path:
    """The LLMs are this test's own, to be put in each other's place."""
    (tmp_path / "world").mkdir()
    return make_ablation_world(tmp_path / "world")


def with_other_weights(folder: Path) -> None:
    shutil.rmtree(folder)
    save_llm(folder, vocab_size=500, seed=7)


def with_another_tokenizer(folder: Path) -> None:
    """As the copies that read half of a prompt: their weights are those of the original."""
    kept = folder.with_name("kept")
    folder.rename(kept)
    write_half(str(kept), folder, CHINESE)


@pytest.mark.font
@pytest.mark.parametrize(
    ("change", "part"), [(with_other_weights, "weights"), (with_another_tokenizer, "tokenizer")]
)
def test_another_llm_under_the_same_name_is_refused(world, tmp_path, capsys, change, part):
    """Else a table would compare variants that read different LLMs."""
    file, out = written(tmp_path, tiny(world, **TWO)), tmp_path / "out"
    assert ablate(world, file, "--out", str(out), "--set", "score.every=0") == 0
    known = read_hashes(world / "one", "cpu")
    told = json.loads((out / "ablation.json").read_text())
    assert told["llms"] == {"one": known} and told["llms_not_known"] == []
    assert told["changes"] == ["score.every=0"]  # for the command above the table
    table = (out / "ablation.md").read_text()
    assert f"LLMs: one {known['weights'][:12]} (tokenizer {known['tokenizer'][:12]}" in table
    shutil.rmtree(out / "runs" / "none-0")
    change(world / "one")
    capsys.readouterr()
    assert ablate(world, file, "--out", str(out)) == 2
    error = capsys.readouterr().err
    assert f"full-0 holds a run that read the LLM one with other {part}, " in error
    assert known["weights"][:12] in error and "--llm one=FOLDER" in error
    assert error.count("\n") == 1 and (out / "ablation.md").read_text() == table
    assert not (out / "runs" / "none-0" / "errors.npy").exists()


@pytest.mark.font
def test_runs_of_before_are_read_and_the_table_says_what_is_not_known(world, tmp_path):
    """Their asked.json tells nothing of LLMs; a run that is trained now tells of its own."""
    file, out = written(tmp_path, tiny(world, **TWO)), tmp_path / "out"
    assert ablate(world, file, "--out", str(out)) == 0
    expected = json.loads((out / "ablation.json").read_text())
    path = out / "runs" / "full-0" / ASKED
    asked = json.loads(path.read_text())
    assert {*asked.pop("llms")} == {"one"}
    path.write_text(json.dumps(asked, sort_keys=True, indent=1))
    before = path.read_bytes()
    assert ablate(world, file, "--out", str(out)) == 0
    told = json.loads((out / "ablation.json").read_text())
    assert told["llms_not_known"] == ["full-0"] and told["llms"] == expected["llms"]
    assert told["runs"] == expected["runs"] and path.read_bytes() == before
    assert "not yet recorded of 1 run: full-0." in (out / "ablation.md").read_text()


def test_hashes_are_of_what_an_llm_holds(tmp_path):
    """However its tensors are shared out to files, and whichever release wrote its words."""
    one = save_llm(tmp_path / "one")
    known = llm_hashes(one)
    assert llm_hashes(save_llm(tmp_path / "sharded", shard="40KB")) == known
    assert len([*(tmp_path / "sharded").glob("*.safetensors")]) > 1
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps({**config, "transformers_version": "9"}))
    assert llm_hashes(one) == known
    (one / "config.json").write_text(json.dumps({**config, "rope_theta": 7.0}))
    assert {k for k, v in llm_hashes(one).items() if v != known[k]} == {"config"}
    other = llm_hashes(save_llm(tmp_path / "other", seed=1))
    assert {k for k, v in other.items() if v != known[k]} == {"weights"}
