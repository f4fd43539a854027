"""What stands in the place of the checkpoint's own text, and what is told of it. See conftest.py"""

from __future__ import annotations

import pytest
import torch
from llmdiff_kit import LLM, DiffKit, noted, sentence

ZEROS = "the checkpoint's own text is all zeros here"
NO_ADAPTER = "the model has no LLMDiff adapter"
LIDIT = "host.lidit.conditioning"
PREFIX = "conditioning/for an adapter"


@pytest.fixture(scope="module")
def kit(pack, host, tmp_path_factory) -> DiffKit:
    return DiffKit(pack, host, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def model(kit):
    return kit.unet()


def for_lidit(pack, width: int) -> list:
    """CONDITIONING as CLIP Text Encode gives it with an LLM's CLIP."""
    text, made = (pack.module(name) for name in ("lidit_core.model.prompt_text", LIDIT))
    states = pack.module("lidit_core.text.states")
    roles = torch.full((1, 9), states.PROMPT, dtype=torch.int32)
    branch = text.BranchText("an LLM", states.LLMStates(torch.randn(1, 9, width), roles), "-3 x")
    prompt = text.PromptText((branch,))
    return [[branch.states.hidden, made.values_of(prompt)]]


@pytest.mark.parametrize("width", [576, 768])
def test_a_prompt_for_a_lidit_is_not_taken_for_the_checkpoints_text(kit, pack, width):
    """Of the U-Net's width it drew from nonsense, of another one it ended in PyTorch's error."""
    with pytest.raises(ValueError, match="with the checkpoint's own CLIP in CLIP Text") as told:
        kit.prompt(own=for_lidit(pack, width))
    sentence(told)


@pytest.fixture
def kept(kit, host):
    """Conditioning that was a file."""

    def run(conditioning: list) -> list:
        kit.pack.run("LiDiTSaveConditioning", conditioning=conditioning, filename_prefix=PREFIX)
        folder = host.base / "output" / "conditioning"
        path = max(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        return kit.pack.run("LiDiTLoadConditioning", file=f"conditioning/{path.name} [output]")[0]

    return run


def test_without_an_adapter_a_loaded_prompt_says_what_it_said_before(kit, model, kept, caplog):
    with pytest.raises(ValueError, match=NO_ADAPTER) as told:
        kit.sample(model, kept(kit.prompt()))
    sentence(told)
    joined = kit.prompt(own=kit.own())
    expected = kit.sample(model, joined)
    said = noted(caplog, f"what {LLM} reads, and {NO_ADAPTER}")
    caplog.clear()
    assert torch.equal(kit.sample(model, kept(joined)), expected)
    assert noted(caplog, NO_ADAPTER) == said != []


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_loaded_prompt_is_read_by_an_adapter_as_before(kit, model, kept, mode):
    changed, prompt = kit.apply(model, kit.adapter("sd15"), mode), kit.prompt(own=kit.own())
    assert torch.equal(kit.sample(changed, kept(prompt)), kit.sample(changed, prompt))


@pytest.mark.parametrize(
    "how, told",
    [
        ({"mode": "add"}, True),
        ({"mode": "replace"}, False),
        ({"mode": "replace", "start": 0.3}, True),
        ({"mode": "replace", "end": 0.8}, True),
        ({"mode": "add", "strength": 0.0}, False),
    ],
)
def test_zeros_beside_an_adapter_are_told_where_they_are_read(kit, model, caplog, how, told):
    changed = kit.apply(model, kit.adapter("sd15"), **how)
    kit.sample(changed, kit.prompt())
    assert len(noted(caplog, ZEROS)) == told
    caplog.clear()
    kit.sample(changed, kit.prompt(own=kit.own()))
    assert not noted(caplog, ZEROS)
