"""Some of docs/llm-families.md. Run: pytest tests/core/llm/test_llm_families_page.py"""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers")
from llm_families import PAGE, outcome, page  # noqa: E402

KINDS = ["gemma4_unified_text", "gpt2", "mixtral"]  # sizes a block, other names, fused experts


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_transformers(kind, tmp_path):
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {kind}")
    assert float(outcome(transformers.CONFIG_MAPPING[kind], tmp_path)) <= 1e-5


def test_an_encoder_with_a_decoder_is_refused_in_one_sentence(tmp_path):
    told = outcome(transformers.CONFIG_MAPPING["prophetnet"], tmp_path)
    assert told.startswith("refused: ") and "\n" not in told


def test_the_page_has_each_kind_and_no_fault():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| {kind} |" in text for kind in KINDS) and "FAULT" not in text
    assert "| a | 1e-06 |" in page({"a": "1e-06", "b": "refused: no", "c": "not tried"}, "5")
