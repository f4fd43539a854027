"""LLMs that are known by their weights. Host's Python: pytest tests/host/lidit"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_kit import save_small, small_config

MINE, OTHER = "1:0123456789abcdef:" + "0f" * 16, "1:fedcba9876543210:" + "f0" * 16
QUANTISED = "1:0123456789abcdef:" + "0f" * 15 + "0e"
TOLD = "has other weights than the one that this was trained on"


@pytest.fixture
def knowing(kit, tmp_path):
    """A model that knows the weights of "alpha", its first LLM."""
    first, *rest = small_config().llms
    llms = (replace(first, fingerprint=MINE), *rest)
    return kit.model.load_model(save_small(tmp_path / "knowing.safetensors", llms=llms))


def prompt(kit, name: str, fingerprint: str) -> list:
    read = kit.text.BranchText(name, kit.read(seed=1), fingerprint=fingerprint)
    return [kit.cond.entry_of(kit.text.PromptText((read,)))]


@pytest.mark.parametrize("mine", [MINE, QUANTISED])
def test_the_same_llm_is_recognised_under_another_name(kit, knowing, caplog, mine):
    expected = kit.sample(knowing, prompt(kit, "alpha", MINE))
    caplog.clear()
    found = kit.sample(knowing, prompt(kit, "my-alpha-Q4", mine))
    assert torch.equal(found, expected)
    assert "is read by the branch" not in caplog.text and TOLD not in caplog.text


def test_another_llm_under_the_same_name_is_told_on_the_node(kit, knowing, caplog):
    kit.sample(knowing, prompt(kit, "alpha", OTHER))
    assert f"the LLM alpha here {TOLD}" in caplog.text


@pytest.mark.parametrize("known", ["", "2:later:version"])
def test_what_is_not_known_is_not_told(kit, knowing, caplog, known):
    kit.sample(knowing, prompt(kit, "alpha", known))
    assert TOLD not in caplog.text


def test_an_unknown_name_is_refused_as_before(kit, knowing):
    with pytest.raises(Exception, match="not on my-alpha"):
        kit.sample(knowing, prompt(kit, "my-alpha", OTHER))


def test_conditioning_of_before_has_no_fingerprints(kit, knowing, caplog):
    conditioning = prompt(kit, "alpha", OTHER)
    del conditioning[0][1]["lidit_fingerprint"]
    kit.sample(knowing, conditioning)
    assert TOLD not in caplog.text
