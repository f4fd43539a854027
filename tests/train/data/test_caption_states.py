"""Captions' states in a shared cache. Run: pytest tests/train/data/test_caption_states.py"""

from __future__ import annotations

import torch
from tiny_llm import save_llm

from lidit_core.llm.loading import source_fingerprint
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_train.data.caption_states import CHUNK, CaptionReader


def test_two_runs_that_fill_one_cache_share_its_parts(tmp_path, monkeypatch):
    """What another has kept since this one looked is not computed again."""
    spec = LLMSpec("tiny", 32, template=find_template("short"), token_budget=24)
    llm, texts = str(save_llm(tmp_path / "tiny")), [f"a cat and {n} dogs" for n in range(300)]
    mine, other = (CaptionReader(spec, tmp_path / "cache", llm=llm) for _ in range(2))
    computed, compute = [], mine._compute

    def first_the_other(part: list[str]):
        if not computed:
            other.prepare(texts)
        computed.extend(part)
        return compute(part)

    monkeypatch.setattr(mine, "_compute", first_the_other)
    mine.prepare(texts)
    assert 0 < len(computed) <= CHUNK and not mine.missing(texts)
    alone = CaptionReader(spec, tmp_path / "alone", llm=llm)
    alone.prepare(texts)
    for one, two in zip(mine.read_rows(texts, False), alone.read_rows(texts, False)):
        assert torch.equal(one.hidden, two.hidden)


def test_of_the_same_llm_the_note_tells_the_rest(tmp_path, monkeypatch):
    """Its configuration, for which transformers is imported, is read once."""
    spec = LLMSpec("tiny", 32, template=find_template("short"), token_budget=24)
    llm, folder, asked = str(save_llm(tmp_path / "tiny")), tmp_path / "cache", []

    def fingerprint(source: str) -> str:
        asked.append(source)
        return source_fingerprint(source)

    monkeypatch.setattr("lidit_train.data.caption_states.source_fingerprint", fingerprint)
    first, second = (CaptionReader(spec, folder, llm=llm) for _ in range(2))
    assert first.fingerprint == second.fingerprint == source_fingerprint(llm) != ""
    assert first.storage == second.storage != "" and asked == [llm]
    (folder / "tiny.json").write_text("[")  # damaged
    assert CaptionReader(spec, folder, llm=llm).fingerprint == first.fingerprint
    other = str(save_llm(tmp_path / "other", seed=1))
    assert CaptionReader(spec, folder, llm=other).fingerprint != first.fingerprint
    assert asked == [llm, llm, other]
