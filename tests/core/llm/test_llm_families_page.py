"""Some of docs/llm-families.md. Run: pytest tests/core/llm/test_llm_families_page.py"""

from __future__ import annotations

import os
import re

import pytest

transformers = pytest.importorskip("transformers")
from llm_families import PAGE, outcome, page  # noqa: E402

KINDS = ["gemma4_unified_text", "gpt2", "mixtral"]  # sizes a block, other names, fused experts


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_transformers(kind, tmp_path):
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {kind}")
    assert float(outcome(transformers.CONFIG_MAPPING[kind], tmp_path)) <= 1e-5


def rows() -> list[tuple[str, str]]:
    """The families of the page, and the difference of each."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^\| ([\w.-]+) \| ([\de.+-]+) \|$", text, re.MULTILINE)


@pytest.mark.skipif(
    not os.environ.get("LIDIT_EVERY_FAMILY"), reason="three minutes: python3 run.py prove families"
)
def test_every_family_of_the_page_is_read_as_it_says(tmp_path):
    known = [kind for kind, _ in rows() if kind in transformers.CONFIG_MAPPING]
    found = {kind: outcome(transformers.CONFIG_MAPPING[kind], tmp_path / kind) for kind in known}
    assert len(known) >= 80
    assert {
        k: told for k, told in found.items() if not told[0].isdigit() or float(told) > 1e-5
    } == {}


def test_an_encoder_with_a_decoder_is_refused_in_one_sentence(tmp_path):
    told = outcome(transformers.CONFIG_MAPPING["prophetnet"], tmp_path)
    assert told.startswith("refused: ") and "\n" not in told


def test_the_page_has_each_kind_and_no_fault():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| {kind} |" in text for kind in KINDS) and "FAULT" not in text
    assert all(float(number) <= 1e-5 for _, number in rows())
    assert "| a | 1e-06 |" in page({"a": "1e-06", "b": "refused: no", "c": "not tried"}, "5")
