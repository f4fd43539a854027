"""A bridge that adds to an encoder's rows. Run: pytest tests/core/bridge/test_adding.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_bridge import Windowed, config, randomised, rows, spec, students

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.encode import OwnEntry, added
from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import TEXT, OwnRows, stack_rows
from lidit_core.errors import LiDiTError
from lidit_core.text.emphasis import read_emphasis, token_weight

TEXTS = ("a red cat left of two dogs", "three apples and two dogs on a car " * 3, "")
EMPHASISED = "a red (cat left:1.5) of two dogs"


def made(teacher: Windowed, *llms, **changes) -> Bridge:
    sizes = {"width": 32, "heads": 4, "blocks": 2, "refiner_blocks": 1, "add": True}
    return Bridge(BridgeConfig(llms or (spec(),), teacher.teacher.spec, **{**sizes, **changes}))


def loaded_of(bridge: Bridge, teacher: Windowed) -> LoadedBridge:
    ((sequence, values),) = teacher("")
    return LoadedBridge(bridge.eval(), teacher.rows, (sequence, values))


def entry_of(teacher: Windowed, text: str, dtype=torch.float32):
    """One of the encoder's, with a negative zero in it, which a sum with 0 would lose."""
    ((sequence, values),) = teacher(text)
    sequence[0, 0, :2] = torch.tensor([-0.0, 0.0])
    return sequence.to(dtype), {**values, "pooled_output": values["pooled_output"].to(dtype)}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_an_untrained_one_changes_no_bit(masked, dtype):
    for llms in ((spec(),), (spec(), spec("other", 12))):
        teacher = Windowed(masked)
        loaded = loaded_of(made(teacher, *llms).initialise(), teacher)
        for text in (*TEXTS, EMPHASISED):
            read = read_emphasis(text)
            own = entry_of(teacher, read.text, dtype)
            given = [students([read.text], llm) for llm in llms] if text else []
            sequence, values = added(loaded, read, given, OwnEntry(own, own))
            assert torch.equal(bits(sequence), bits(own[0]))
            assert list(values) == list(own[1])
            for name, value in own[1].items():
                same = torch.is_tensor(value)
                assert torch.equal(values[name], value) if same else values[name] == value


def test_a_trained_one_adds_by_strength_and_strength_0_adds_nothing():
    teacher = Windowed()
    loaded = loaded_of(randomised(made(teacher)), teacher)
    text = TEXTS[0]
    own, given = entry_of(teacher, text), [students([text])]
    whole, half, none = (
        added(loaded, text, given, OwnEntry(own, own), strength) for strength in (1.0, 0.5, 0.0)
    )
    assert not torch.allclose(whole[0], own[0])
    assert torch.allclose(half[0] - own[0], (whole[0] - own[0]) / 2, atol=1e-5)
    pooled = [entry[1]["pooled_output"] for entry in (whole, half, own)]
    assert torch.allclose(pooled[1] - pooled[2], (pooled[0] - pooled[2]) / 2, atol=1e-5)
    assert not torch.allclose(pooled[0], pooled[2])
    assert torch.equal(bits(none[0]), bits(own[0]))


def test_what_is_added_to_a_word_has_its_weight():
    teacher = Windowed()
    loaded = loaded_of(randomised(made(teacher)), teacher)
    read = read_emphasis(EMPHASISED)
    plain, given = entry_of(teacher, read.text), [students([read.text])]
    weighted = plain[0] + 1, plain[1]  # as if the encoder had read the weights
    unweighted = replace(read, weights=())
    step = added(loaded, unweighted, given, OwnEntry(plain, plain))[0] - plain[0]
    found = added(loaded, read, given, OwnEntry(weighted, plain))[0] - weighted[0]
    rows_made = teacher.rows(read.text, read.pieces)
    text = zip(rows_made.spans.tolist(), (rows_made.kinds == TEXT).tolist())
    weights = torch.tensor([token_weight(read, *map(int, s)) if own else 1.0 for s, own in text])
    assert len(weights.unique()) > 1
    assert torch.allclose(found, step * weights[:, None], atol=1e-5)


def test_another_number_of_rows_with_weights_than_without_is_told():
    """As where the weights part the tokens otherwise, and the other entry is of the whole."""
    teacher = Windowed()
    loaded = loaded_of(randomised(made(teacher)), teacher)
    read = read_emphasis(EMPHASISED)
    plain, given = entry_of(teacher, read.text), [students([read.text])]
    longer = torch.cat([plain[0], plain[0][:, :1]], 1), plain[1]
    with pytest.raises(LiDiTError, match="made 15 rows of this prompt with weights and 14 without"):
        added(loaded, read, given, OwnEntry(longer, plain))


def test_still_rows_stay_the_encoders():
    teacher = Windowed()
    bridge = randomised(made(teacher))
    bridge.base.fixed[0] = 1
    own, given = entry_of(teacher, TEXTS[0]), [students([TEXTS[0]])]
    found = added(loaded_of(bridge, teacher), TEXTS[0], given, OwnEntry(own, own))[0]
    assert torch.equal(found[0, 0], own[0][0, 0])
    assert not torch.allclose(found[0, 1:], own[0][0, 1:])


def test_the_encoder_and_the_llm_are_both_read():
    """By the collaborative refiner, in which each is a branch, and by the resampler."""
    teacher = Windowed()
    bridge, text = randomised(made(teacher)), TEXTS[0]
    given, made_of = students([text]), teacher.rows(text)
    own = entry_of(teacher, text)
    before = bridge.added([given], rows_of(made_of), own_rows(own, made_of))
    other = OwnRows.of(own[0].roll(1, -1), own[1]["pooled_output"], rows_of(made_of), False)
    assert not torch.allclose(
        bridge.added([given], rows_of(made_of), other).sequence, before.sequence
    )
    changed = bridge.added([students([text], seed=1)], rows_of(made_of), own_rows(own, made_of))
    assert not torch.allclose(changed.sequence, before.sequence)
    assert len(bridge.reader.collaborative.branches) == len(bridge.reader.linguistic) == 2


def rows_of(made_of):
    return stack_rows([made_of])


def own_rows(own, made_of) -> OwnRows:
    return OwnRows.of(own[0], own[1]["pooled_output"], rows_of(made_of), False)


def test_a_file_is_read_as_it_was_written(tmp_path):
    teacher = Windowed()
    loaded = loaded_of(randomised(made(teacher)), teacher)
    write_bridge(tmp_path / "b.safetensors", loaded)
    again = load_bridge(tmp_path / "b.safetensors")
    assert again.bridge.config == loaded.bridge.config and again.bridge.config.add
    own, given = entry_of(teacher, TEXTS[0]), [students([TEXTS[0]])]
    ours, theirs = (added(b, TEXTS[0], given, OwnEntry(own, own)) for b in (loaded, again))
    assert torch.equal(ours[0], theirs[0])
    assert not [name for name, _ in loaded.bridge.base.named_buffers() if "text" in name]


def test_an_encoder_that_is_missing_or_another_is_told():
    teacher = Windowed()
    loaded = loaded_of(randomised(made(teacher)), teacher)
    with pytest.raises(LiDiTError, match="adds to what windowed writes, and that is not here"):
        loaded.bridge([students()], rows())
    own = entry_of(teacher, TEXTS[0])
    wide = own[0].repeat(1, 1, 2), own[1]
    bare = own[0], {k: v for k, v in own[1].items() if k != "pooled_output"}
    longer = entry_of(teacher, TEXTS[1])
    for entry, sentence in (
        (wide, r"rows of 40 and a pooled vector of 6, .* those of windowed, 20 and 6; connect"),
        (bare, "rows of 20 and a pooled vector of 0, "),
        (longer, "rows of this prompt, and the bridge adds to 14, as the encoder read more"),
    ):
        with pytest.raises(LiDiTError, match=sentence) as told:
            added(loaded, TEXTS[0], [students([TEXTS[0]])], OwnEntry(entry, entry))
        assert "\n" not in str(told.value)


def test_gradients_reach_all_that_learns():
    teacher = Windowed()
    bridge, text = randomised(made(teacher)), TEXTS[0]
    for parameter in bridge.parameters():
        parameter.requires_grad_(True)
    made_of = teacher.rows(text)
    out = bridge(
        [students([text])], rows_of(made_of), own=own_rows(entry_of(teacher, text), made_of)
    )
    (out.sequence.square().mean() + out.pooled.square().mean()).backward()
    still = [n for n, p in bridge.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert still == []


def test_a_configuration_survives_its_json():
    ours = config(add=True)
    assert BridgeConfig.from_json(ours.to_json()) == ours and ours.branches == 2
