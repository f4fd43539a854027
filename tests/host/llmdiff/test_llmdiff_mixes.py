"""Nodes that mix prompts whose LLM text cannot follow: seen, and told or refused. Host's Python."""

from __future__ import annotations

import pytest
import torch
from llmdiff_kit import noted, sentence


def average(kit, to, other, strength: float):
    inputs = {"conditioning_to": to, "conditioning_from": other}
    return kit.stock("ConditioningAverage", conditioning_to_strength=strength, **inputs)


MIXED = {
    "average": lambda kit, a, b: average(kit, a, b, 0.3),
    "all of the other": lambda kit, a, b: average(kit, a, b, 0.0),
    "concat": lambda kit, a, b: kit.stock(
        "ConditioningConcat", conditioning_to=a, conditioning_from=b
    ),
    "multiplied": lambda kit, a, b: kit.stock(
        "ConditioningMultiply", conditioning=a, multiplier=1.5
    ),
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("how", MIXED)
def test_text_that_cannot_follow_a_mix_is_told(diff_kit, unet, caplog, how, own):
    if how == "multiplied" and not own:
        pytest.skip("zeros stay what they are")
    if (
        how == "multiplied"
        and "ConditioningMultiply" not in diff_kit.host.nodes.NODE_CLASS_MAPPINGS
    ):
        pytest.skip("this ComfyUI has no ConditioningMultiply")
    a, b = (diff_kit.prompt(9, n, own=diff_kit.own(seed=n) if own else None) for n in (1, 2))
    mixed = MIXED[how](diff_kit, a, b)
    for mode in ("add", "replace"):
        changed = diff_kit.apply(unet, diff_kit.adapter("sd15"), mode)
        diff_kit.sample(changed, a)
        assert not noted(caplog, "after LLMDiff Encode")
        if mode == "replace":
            with pytest.raises(
                ValueError, match="after LLMDiff Encode.*ConditioningCombine"
            ) as told:
                diff_kit.sample(changed, mixed)
            sentence(told)
        else:
            diff_kit.sample(changed, mixed, steps=3)
            assert len(noted(caplog, "after LLMDiff Encode")) == 1
        caplog.clear()


def beginning_alike(kit, own: list | None) -> list[list]:
    """Two prompts that an LLM reads alike for 40 tokens, with one text of the checkpoint."""
    readings = [kit.reading(44, n, blocks=95) for n in (1, 2)]
    for reading in readings:
        reading.states.hidden[:, :40] = readings[0].states.hidden[:, :40]
    return [kit.cond.joined(own or [kit.cond.blank("SD1.5")], reading) for reading in readings]


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("own", [True, False])
def test_prompts_that_differ_in_what_an_llm_reads_alone_are_no_less_a_mix(diff_kit, own, weight):
    """Their average has the numbers of either, as the checkpoint's own text is the same."""
    a, b = beginning_alike(diff_kit, diff_kit.own(seed=1) if own else None)
    assert a[0][1]["llmdiff_states"]["0"][:, :40].numel() > a[0][0].numel()
    assert diff_kit.cond.what_became(*a[0]) == "kept"
    assert diff_kit.cond.what_became(*average(diff_kit, a, b, weight)[0]) == "changed"
    if own:  # zeros lose their sign where others are added to them
        assert diff_kit.cond.what_became(*average(diff_kit, a, b, 1.0)[0]) == "kept"
    second = [diff_kit.reading(9, n, llm="second") for n in (1, 2)]
    a, b = (diff_kit.cond.joined(a, reading)[0] for reading in second)
    assert diff_kit.cond.what_became(*a) == "kept"
    assert diff_kit.cond.what_became(*average(diff_kit, [a], [b], weight)[0]) == "changed"


def test_a_prompt_that_changed_between_two_llms_stays_known_for_one(diff_kit):
    a, b = (diff_kit.prompt(9, n, own=diff_kit.own(seed=n)) for n in (1, 2))
    second = diff_kit.reading(9, 3, llm="second")
    ((c0, values),) = diff_kit.cond.joined(average(diff_kit, a, b, 0.5), second)
    assert diff_kit.cond.what_became(c0, values) == "changed"
    zeroed = diff_kit.stock("ConditioningZeroOut", conditioning=a)
    assert diff_kit.cond.what_became(*diff_kit.cond.joined(zeroed, second)[0]) == "emptied"


def test_the_checkpoint_reads_its_own_text_as_it_was(diff_kit, unet):
    """The mark of what an LLM reads is in the entry alone, and older entries have none."""
    own = diff_kit.own(seed=1)
    marked = diff_kit.prompt(own=own)
    assert not torch.equal(marked[0][0], own[0][0])
    still = diff_kit.apply(unet, diff_kit.adapter("sd15"), "add", strength=0.0)
    assert torch.equal(diff_kit.sample(still, marked), diff_kit.sample(unet, own))
    older = [[own[0][0], {k: v for k, v in marked[0][1].items() if k != "llmdiff_mark"}]]
    changed = diff_kit.apply(unet, diff_kit.adapter("sd15"), "add")
    assert torch.equal(diff_kit.sample(changed, older), diff_kit.sample(changed, marked))


def test_a_mix_before_the_llm_reads_is_not_told(diff_kit, unet, caplog):
    own = average(diff_kit, diff_kit.own(seed=1), diff_kit.own(seed=2), 0.4)
    for mode in ("add", "replace"):
        diff_kit.sample(
            diff_kit.apply(unet, diff_kit.adapter("sd15"), mode), diff_kit.prompt(own=own)
        )
    assert not noted(caplog, "after LLMDiff Encode")
